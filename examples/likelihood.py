"""What does the model find likely?  python -m examples.likelihood

likelihood.png shows log q(x) of test images, of the same upside down, and of the
model's own samples: codes of the prior at temperature 1, decoded, not clipped. Uniform
noise is far less likely, and only printed. extremes.png shows the likeliest and the
least likely test images.
"""

from support import command_line, data, files, pictures
from support.errors import UserError

import nice

import sys
from pathlib import Path

import numpy as np

COLUMNS = 15  # of extremes.png
SHOWN = 2 * COLUMNS  # images at either end


def measure(model, images):
    """log q(x) of some kinds of images, in nats: a dict of names and arrays (n,)."""
    z = model.sample_codes(len(images), temperature=1.0, source="prior")
    rng = np.random.default_rng(0)
    grain = rng.integers(0, 256, images.shape, dtype="uint8")
    return {
        "test images": model.log_likelihood(images),
        "upside down": model.log_likelihood(images[:, ::-1, ::-1]),
        "uniform noise": model.log_likelihood(grain),
        # Nobody has rounded these, so no noise need fill the gaps between grey levels.
        "own samples": model.log_likelihood(model.decode(z), noise=0),
    }


def histograms(nats):
    """Plot log q(x), in nats, of some kinds of images: a dict of arrays."""
    everything = np.concatenate(list(nats.values()))
    edges = np.linspace(np.quantile(everything, 0.05), everything.max(), 80)
    figure, axes = pictures.plot()
    for name, values in nats.items():
        values = np.maximum(values, edges[0])  # what lies further left, too
        axes.hist(values, edges, histtype="step", linewidth=1.5, label=name)
    axes.set(xlabel="log q(x) (nats; the first bar: this or less)", ylabel="images")
    axes.legend(loc="upper left")
    return figure


def extremes(images, nats):
    """The likeliest images and the least likely: a picture."""
    order = np.argsort(-nats)
    likeliest = images[order[:SHOWN]]
    least_likely = images[order[-SHOWN:]]
    chosen = np.concatenate([likeliest, least_likely])
    chosen = chosen.reshape(-1, COLUMNS, *images.shape[1:])
    names = ["likeliest"] * 2 + ["least likely"] * 2
    return pictures.draw(pictures.Sheet(chosen, names))


@command_line.program("examples.likelihood")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", type=Path, default=command_line.MODEL, help="a file of nice.py")
    add("--data", help="test images (default: those of the model's run)")
    args = parser.parse_args(argv)
    model = nice.load(args.model)
    source = args.data or files.recorded_data(args.model)
    _, (x_test, _) = data.load(source)
    if len(x_test) < SHOWN:
        found = f"{source} has {len(x_test)}"
        raise UserError(f"this example needs {SHOWN} test images or more, {found}")

    nats = measure(model, x_test)
    for name, x in nats.items():
        mean = f"{x.mean():9.0f} nats"
        print(f"{name:14}{mean}, median {np.median(x):.0f}, deviation {x.std():.0f}")
    del nats["uniform noise"]  # on one axis with it all the rest would be a single bar
    made = {
        "likelihood.png": histograms(nats),
        "extremes.png": extremes(x_test, nats["test images"]),
    }
    for name, picture in made.items():
        path = args.model.parent / name
        pictures.save(path, picture)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
