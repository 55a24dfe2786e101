"""What does the model find likely?  python -m examples.likelihood

likelihood.png shows log q(x) of test images, of the same upside down, and of the model's own
samples: codes of the prior at temperature 1, decoded, not clipped. Uniform noise is far less
likely, and only printed. extremes.png shows the likeliest and the least likely test images.
"""

import sys
from pathlib import Path

import numpy as np

import nice
import sample
from support import command_line, data, files, pictures


def histograms(nats):
    """Plot log q, in nats, of some kinds of images: a dict of arrays."""
    values = np.concatenate(list(nats.values()))
    edges = np.linspace(np.quantile(values, 0.05), values.max(), 80)
    figure, axes = pictures.plot()
    for name, values in nats.items():  # the first bar has also what lies further left
        axes.hist(np.maximum(values, edges[0]), edges, histtype="step", linewidth=1.5, label=name)
    axes.set(xlabel="log q(x) (nats; the first bar: this or less)", ylabel="images")
    axes.legend(loc="upper left")
    return figure


def extremes(images, nats):
    """The 30 likeliest images and the 30 least likely: a picture."""
    order = np.argsort(-nats)
    chosen = images[[*order[:30], *order[-30:]]].reshape(4, 15, *images.shape[1:])
    return pictures.sheet(chosen, ["likeliest"] * 2 + ["least likely"] * 2)


@command_line.program
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=command_line.MODEL)
    parser.add_argument("--data", help="test images (default: those of the model's run)")
    args = parser.parse_args(argv)
    encoder = nice.load_encoder(args.model)
    _, (x_test, _) = data.load(args.data or files.recorded_data(args.model))
    drawn = sample.decode(encoder, encoder.get_layer("prior").sample(len(x_test)))
    grain = np.random.default_rng(0).integers(0, 256, x_test.shape, dtype="uint8")
    kinds = {"test images": x_test, "upside down": x_test[:, ::-1, ::-1], "uniform noise": grain}
    nats = {name: nice.log_likelihood(encoder, images) for name, images in kinds.items()}
    nats["own samples"] = nice.log_likelihood(encoder, drawn, noise=0)
    for name, x in nats.items():
        print(f"{name:14}{x.mean():9.0f} nats, median {np.median(x):.0f}, deviation {x.std():.0f}")
    del nats["uniform noise"]  # on one axis with it all the rest would be a single bar
    sheet = extremes(x_test, nats["test images"])
    for name, picture in {"likelihood.png": histograms(nats), "extremes.png": sheet}.items():
        pictures.save(args.model.parent / name, picture)
        print(args.model.parent / name)


if __name__ == "__main__":
    sys.exit(main())
