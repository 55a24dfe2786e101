"""What do couplings and scaling do?  python -m examples.plane

The layers that learn digits learn points of the plane (D = 2), on two half circles, in
seconds. plane.png shows, above, how the encoder bends a grid and moves points, step by
step. A coupling moves points up and down, or else to the left and right, and each cell
keeps its area. The scaling changes all areas by one factor. Below is the way back: the
density, from the prior to q(x), as the decoder undoes one step after another.

As each coupling swaps the two coordinates, every second panel is swapped back. The last
column has a scale of its own.
"""

from support import command_line, pictures

import layers
import nice
import sample

import sys

import keras
import numpy as np
from keras import ops

WHITE = 255  # flows take grey levels, so a point (x, y) is the image (255 x, 255 y)
CELL = 0.1  # side of a cell of the grid
CELLS = {"#0072b2": (0.2, 0.5), "#e69f00": (0.5, 0.1)}  # colours, lower left corners


def half_circles(count, seed):
    """Points on two half circles, noisy, in the unit square: float32 (count, 2)."""
    rng = np.random.default_rng(seed)
    angle = np.pi * rng.random(count)
    lower = rng.integers(2, size=count)  # 1: on the lower half circle
    x = np.cos(angle) + lower
    y = (1 - 2 * lower) * np.sin(angle) + lower / 2
    points = np.stack([x, y], axis=1)
    points = points + rng.normal(0, 0.1, points.shape)
    return ((points + 1.2) / 4).astype("float32")


def build_flow():
    """Four couplings and a scaling of the plane."""
    return nice.build_encoder(
        (2,),
        couplings=4,
        hidden_layers=2,
        hidden_units=64,
        output_activation="linear",
        learning_rate_multiplier=10.0,
        levels=WHITE,
        noise=0.0,  # points fill the plane as they are
    )


def walk(model, points):
    """Encode points (n, 2): a list of arrays (n, 2), from x to z, none swapped."""
    return sample.upright(model, sample.encode_steps(model, points.astype("float32")))


def outline(corner):
    """Points (401, 2) along the sides of a cell, and back to its lower left corner."""
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)])
    corners = corner + CELL * corners
    along = np.linspace(0, 4, 401)
    x = np.interp(along, range(5), corners[:, 0])
    y = np.interp(along, range(5), corners[:, 1])
    return np.stack([x, y], axis=1)


def area(points):
    """The area inside a closed line (n, 2), by the shoelace formula."""
    x, y = points.astype("float64").T
    return abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2


def densities(model, meshes):
    """The density after no step, after one, ... after all: a list of arrays (n,).

    Args:
        meshes: a list of points (n, 2) to measure each of them at, none swapped.
    """
    found = []
    # To swap is its own inverse, so this gives the points as the steps see them.
    for number, h in enumerate(sample.upright(model, meshes)):
        values, log_det = layers.chain(model.steps[number:], ops.convert_to_tensor(h))
        nats = model.log_density(values[-1], log_det)
        found.append(np.exp(ops.convert_to_numpy(nats)))
    return found


def windows(moved):
    """A square around the points of each panel: lists of centres, and of half sides.

    All panels have one scale, but for the last: the scaling makes its units others.
    """
    centres = []
    reaches = []
    for points in moved:
        low, high = np.quantile(points, (0.002, 0.998), axis=0)
        centres.append((low + high) / 2)
        reaches.append(1.15 * np.max(high - low) / 2)
    common = max(reaches[:-1])
    return centres, [common] * (len(moved) - 1) + reaches[-1:]


def plot(model, points):
    """The grid bent step by step, and the density on the way back; prints areas."""
    side = np.linspace(0, 1, 201)
    mesh = np.stack(np.meshgrid(side, side), axis=-1)  # y, x, and the point's (x, y)
    every = round(200 * CELL)
    lines = np.concatenate([mesh[::every], mesh[:, ::every].swapaxes(0, 1)])
    bent = walk(model, lines.reshape(-1, 2))
    moved = walk(model, points)
    centres, reaches = windows(moved)

    count = len(moved)
    figure, axes = pictures.plot(8.6, 3.5, rows=2, columns=count)
    names = ["data x"]
    names += [f"⟶ after {number}" for number in range(1, count - 1)]
    names += ["⟶ code z (smaller)"]
    for ax, name, grid, dots in zip(axes[0], names, bent, moved, strict=True):
        grid = grid.reshape(lines.shape)
        ax.plot(grid[:, :, 0].T, grid[:, :, 1].T, color="0.75", linewidth=0.5)
        ax.scatter(*dots[:1000].T, s=1, color="0.35", linewidths=0, zorder=2)
        ax.set_title(name, fontsize=9)
    for colour, corner in CELLS.items():
        shapes = walk(model, outline(corner))
        areas = [area(shape) for shape in shapes]
        print("areas of a cell:", *[f"{value:.4f}" for value in areas])
        for column, shape in enumerate(shapes):
            axes[0, column].fill(*shape.T, color=colour, alpha=0.8, zorder=3)
            axes[1, column].plot(*shape.T, color=colour, linewidth=1)
            growth = areas[column] / areas[0]
            axes[0, column].set_xlabel(f"a cell's area: × {growth:.1f}", fontsize=8)

    ticks = np.linspace(-1, 1, 301)
    square = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    meshes = []
    for centre, reach in zip(centres, reaches, strict=True):
        meshes.append((centre + reach * square).astype("float32"))
    names = ["density q(x) ⟵"]
    names += [f"of h after {number} ⟵" for number in range(1, count - 1)]
    names += ["of z: the prior"]
    found = densities(model, meshes)
    for column in range(count):
        (left, bottom), (right, top) = meshes[column][[0, -1]]
        extent = (left, right, bottom, top)
        density = found[column].reshape(301, 301)
        axes[1, column].imshow(density, cmap="Greys", origin="lower", extent=extent)
        axes[1, column].set_title(names[column], fontsize=9)
        for ax in axes[:, column]:
            limits = {"xlim": (left, right), "ylim": (bottom, top)}
            ax.set(**limits, aspect="equal", xticks=[], yticks=[])
    return figure


@command_line.program("examples.plane")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output", type=command_line.path, default="plane.png", help="file to write")
    add("--epochs", type=command_line.positive, default=30, help="passes over points")
    args = parser.parse_args(argv)
    keras.utils.set_random_seed(0)
    model = build_flow()
    model.compile(keras.optimizers.Adam(2e-3))
    points = half_circles(20_000, seed=0)
    model.fit(
        WHITE * points,
        epochs=args.epochs,
        batch_size=500,
        verbose=command_line.verbose(),
    )
    nats = model.log_likelihood(WHITE * half_circles(20_000, seed=1))
    print(f"log-likelihood of new points: {nats.mean():.2f} nats a point")
    pictures.save(args.output, plot(model, points))
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
