"""What do couplings and scaling do?  python -m examples.plane

The layers that learn digits learn points of the plane (D = 2), on two half circles, in seconds. The
picture shows the density q(x), then a grid and some points after each step. A coupling shears the
plane, and each cell of the grid keeps its area; only the scaling changes areas, all by one factor.
"""

import nice  # isort: skip  (first: it sets up the backends)
import sys
from pathlib import Path

import keras
import numpy as np

from support import command_line, pictures


def half_circles(count, seed):
    """Points on two half circles, with noise, in the unit square: float32 (count, 2)."""
    rng = np.random.default_rng(seed)
    angle, side = np.pi * rng.random(count), rng.integers(2, size=count)
    points = np.stack([np.cos(angle) + side, (1 - 2 * side) * np.sin(angle) + side / 2], axis=1)
    return ((points + rng.normal(0, 0.1, points.shape) + 1.2) / 4).astype("float32")


def walk(encoder, points):
    """Where points (..., 2) of the unit square are at first and after each step: a list."""
    seen = [points]
    for step in nice.flow_steps(encoder)[1:]:  # without the change of units
        h = step.transform(keras.ops.convert_to_tensor(seen[-1].reshape(-1, 2)))
        seen.append(keras.ops.convert_to_numpy(h).reshape(points.shape))
    return seen


def draw(encoder, points):
    """The density, and the grid bent step by step: a matplotlib figure."""
    mesh = np.mgrid[0:1:201j, 0:1:201j].T.astype("float32")
    nats = nice.log_likelihood(encoder, 255 * mesh.reshape(-1, 2))
    grids = walk(encoder, np.concatenate([mesh[::10], mesh[:, ::10].swapaxes(0, 1)]))
    dots = walk(encoder, points[:1000])
    names = ["x", *[f"coupling {n}" for n in range(1, 7)], "scaling: z"]
    figure, axes = pictures.plot(8, 8, rows=3, columns=3)
    axes[0, 0].imshow(np.exp(nats).reshape(201, 201), origin="lower")
    axes[0, 0].set(title="density q(x)", xticks=[], yticks=[])
    for ax, name, lines, some in zip(axes.flat[1:], names, grids, dots, strict=True):
        ax.plot(*lines.T, color="0.7", linewidth=0.5)
        ax.scatter(*some.T, s=2, zorder=2)
        ax.set(title=name, aspect="equal", adjustable="datalim", xticks=[], yticks=[])
    return figure


@command_line.program
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("plane.png"))
    args = parser.parse_args(argv)
    keras.utils.set_random_seed(0)
    m = {"hidden_layers": 2, "hidden_units": 64, "output_activation": "linear"}
    # Points fill the plane, so they need no noise. Levels of 255: they are given as grey levels.
    encoder = nice.build_encoder((2,), 6, scale_speed=10.0, levels=255, noise=0.0, **m)
    encoder.compile(keras.optimizers.Adam(2e-3))
    points = half_circles(20_000, seed=0)
    encoder.fit(255 * points, epochs=30, batch_size=500, verbose=0)
    nats = nice.log_likelihood(encoder, 255 * half_circles(20_000, seed=1))
    print(f"log-likelihood of new points: {nats.mean():.2f} nats a point")
    pictures.save(args.output, draw(encoder, points))
    print(args.output)


if __name__ == "__main__":
    sys.exit(main())
