"""What do couplings and scaling do?  python -m examples.plane

The layers that learn digits learn points of the plane (D = 2), on two half circles, in
seconds. The picture shows the density q(x), then a grid and some points after each
step. A coupling shears the plane, and each cell of the grid keeps its area; only the
scaling changes areas, all by one factor.
"""

from support import command_line, pictures

import nice
import sample

import sys
from pathlib import Path

import keras
import numpy as np

WHITE = 255  # flows take grey levels, so a point (x, y) is the image (255 x, 255 y)


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
    """Six couplings and a scaling of the plane."""
    return nice.build_encoder(
        (2,),
        couplings=6,
        hidden_layers=2,
        hidden_units=64,
        output_activation="linear",
        learning_rate_multiplier=10.0,
        levels=WHITE,
        noise=0.0,  # points fill the plane as they are
    )


def plot(model, points):
    """The density, and the grid bent step by step: a matplotlib figure."""
    side = np.linspace(0, 1, 201, dtype="float32")
    mesh = np.stack(np.meshgrid(side, side), axis=-1)  # y, x, and the point's (x, y)
    nats = model.log_likelihood(WHITE * mesh.reshape(-1, 2))
    density = np.exp(nats).reshape(201, 201)

    across = mesh[::10]
    upwards = mesh[:, ::10].swapaxes(0, 1)
    lines = np.concatenate([across, upwards])  # line, point on it, (x, y)
    bent = sample.walk(model, lines.reshape(-1, 2))
    moved = sample.walk(model, points[:1000])
    names = ["x"]
    names += [f"coupling {number}" for number in range(1, len(model.steps))]
    names += ["scaling: z"]

    figure, axes = pictures.plot(8, 8, rows=3, columns=3)
    axes[0, 0].imshow(density, origin="lower")
    axes[0, 0].set(title="density q(x)", xticks=[], yticks=[])
    for ax, name, grid, dots in zip(axes.flat[1:], names, bent, moved, strict=True):
        grid = grid.reshape(lines.shape)
        ax.plot(grid[:, :, 0].T, grid[:, :, 1].T, color="0.7", linewidth=0.5)
        ax.scatter(dots[:, 0], dots[:, 1], s=2, zorder=2)
        ax.set(title=name, aspect="equal", adjustable="datalim", xticks=[], yticks=[])
    return figure


@command_line.program("examples.plane")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output", type=Path, default=Path("plane.png"), help="file to write")
    add("--epochs", type=command_line.positive, default=30, help="passes over points")
    args = parser.parse_args(argv)
    keras.utils.set_random_seed(0)
    model = build_flow()
    model.compile(keras.optimizers.Adam(2e-3))
    points = half_circles(20_000, seed=0)
    model.fit(WHITE * points, epochs=args.epochs, batch_size=500, verbose=0)
    nats = model.log_likelihood(WHITE * half_circles(20_000, seed=1))
    print(f"log-likelihood of new points: {nats.mean():.2f} nats a point")
    pictures.save(args.output, plot(model, points))
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
