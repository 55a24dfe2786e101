"""What does the model find likely?  python -m examples.likelihood

likelihood.png shows log q(x) of test images, of the same upside down (turned by 180
degrees), and of the model's own samples: codes of the prior at temperature 1, decoded,
not clipped. Uniform noise is far less likely, and an empty image likelier than nearly
all digits; these two are only printed. extremes.png shows the likeliest and the least
likely test images.
"""

from support import command_line, data, files, pictures
from support.errors import UserError

import nice

import sys

import numpy as np

COLUMNS = 15  # of extremes.png
SHOWN = 2 * COLUMNS  # images at either end
TICKS = (-100_000, -10_000, -1_000, 0, 500, 1_000, 1_500)  # nats
LINEAR = 150  # nats below 0 where the axis has become logarithmic
PLOTTED = ("test images", "upside down", "prior's draws")  # the others need no axis


def measure(model, images):
    """log q(x) of some kinds of images, in nats: a dict of names and arrays (n,)."""
    z = model.sample_codes(len(images))
    rng = np.random.default_rng(0)
    grain = rng.integers(0, 256, images.shape, dtype="uint8")
    return {
        "test images": model.log_likelihood(images),
        "upside down": model.log_likelihood(images[:, ::-1, ::-1]),
        "uniform noise": model.log_likelihood(grain),
        "empty": model.log_likelihood(np.zeros_like(images)),
        # Nobody has rounded these, so no noise need fill the gaps between grey levels.
        "prior's draws": model.log_likelihood(model.decode(z), noise=0),
    }


def to_axis(nats):
    """Where log q(x) is on the axis: linear above 0, logarithmic below.

    Most images are above 0, and some are very far below.
    """
    above = np.maximum(nats, 0) / LINEAR
    below = np.log1p(np.maximum(-nats, 0) / LINEAR)
    return above - below


def from_axis(place):
    """The inverse of `to_axis`."""
    above = np.maximum(place, 0) * LINEAR
    below = np.expm1(np.maximum(-place, 0)) * LINEAR
    return above - below


def histograms(nats):
    """Plot log q(x), in nats, of some kinds of images: a dict of arrays."""
    everything = to_axis(np.concatenate(list(nats.values())))
    places = np.linspace(everything.min(), everything.max(), 121)
    edges = from_axis(places)
    figure, all_axes = pictures.plot(rows=len(nats))
    for number, (name, values) in enumerate(nats.items()):
        colour = f"C{number}"
        axes = all_axes[number]
        axes.set_xscale("function", functions=(to_axis, from_axis))
        axes.set_xlim(edges[0], edges[-1])
        counts, _ = np.histogram(to_axis(values), places)
        axes.stairs(counts, edges, color=colour, fill=True)
        axes.axvline(values.mean(), color="black", linewidth=1, linestyle=":")
        mean = pictures.minus(f"mean {values.mean():,.0f}")
        median = pictures.minus(f"median {np.median(values):,.0f}")
        text = f"{name}\n{mean} (dotted)\n{median}"
        axes.text(0.01, 0.95, text, color=colour, va="top", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        axes.spines[["left", "top", "right"]].set_visible(False)
    shown = [tick for tick in TICKS if edges[0] < tick < edges[-1]]
    names = [pictures.minus(f"{tick:,}") for tick in shown]
    all_axes[-1].set_xticks(shown, names, fontsize=9)
    all_axes[-1].set_xlabel("log q(x), in nats: linear above 0, logarithmic below")
    return figure


def extremes_sheet(images, nats):
    """The likeliest images, and the least likely."""
    order = np.argsort(-nats)
    chosen = np.concatenate([order[:SHOWN], order[-SHOWN:]])
    rows = SHOWN // COLUMNS
    return pictures.Sheet(
        pictures.in_rows(images[chosen], COLUMNS),
        headings={0: "the likeliest test images", rows: "the least likely"},
    )


@command_line.program("examples.likelihood")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--model",
        type=command_line.path,
        default=command_line.MODEL,
        help="a file of nice.py",
    )
    add(
        "--data",
        type=command_line.path,
        help="test images (default: those of the model's run)",
    )
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
    plotted = {name: nats[name] for name in PLOTTED}
    made = {
        "likelihood.png": histograms(plotted),
        "extremes.png": pictures.draw(extremes_sheet(x_test, nats["test images"])),
    }
    for name, picture in made.items():
        path = args.model.parent / name
        pictures.save(path, picture)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
