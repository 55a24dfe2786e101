"""See the flow at work in a browser:  python -m examples.explore

explore.html is one page, without a server and without a network: new images, the way
from a code to an image, an image of your own and its likelihood, a line between two
codes. It holds the model itself and runs it both ways. The template beside this file,
from which it is made, reads as a text about the flow.
"""

from support import command_line, data, files
from support.errors import UserError
from support.pictures import TEMPERATURE

import layers
import nice

import base64
import json
import sys
from pathlib import Path

import keras
import numpy as np

TEMPLATE = Path(__file__).with_suffix(".html")
PRIORS = ("gaussian", "logistic")
ACTIVATIONS = ("relu", "linear")
CHANNELS = ((), (1,), (3,), (4,))
DRAWS = 25  # images of the first grid, which are in the page before it can decode
MOST_MEANS = 1000  # of the mixture; 1,000 means of 784 values take 2 MB of the page
MOST_TEST_IMAGES = 10_000  # for the histogram
SHOWN_TEST_IMAGES = 10


class Arrays:
    """The arrays of a page: elements with a name, a type, and the bytes in base64."""

    def __init__(self):
        self.elements = []

    def add(self, values, kind="float16"):
        """Add an array; return its name."""
        name = f"array-{len(self.elements)}"
        opening = f'<script type="text/plain" id="{name}" data-type="{kind}">'
        self.elements.append(opening + in_base64(values, kind) + "</script>")
        return name


def in_base64(values, kind):
    """The bytes of an array in base64, the lowest byte of a number first."""
    numbers = np.asarray(values, np.dtype(kind).newbyteorder("<"))
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def describe_steps(model, arrays):
    """Describe the steps of the flow, in their order: a list of dicts.

    Raises:
        UserError: there is a step that the page does not know.
    """
    described = []
    for step in model.steps:
        if type(step) is layers.AdditiveCoupling:
            described.append({"kind": "coupling", "m": describe_m(step, arrays)})
        elif type(step) is layers.DiagonalScaling:
            log_s = keras.ops.convert_to_numpy(step.log_s)
            described.append({"kind": "scaling", "logS": arrays.add(log_s, "float32")})
        else:
            raise UserError(
                f"{type(step).__name__}: the page knows the steps AdditiveCoupling and "
                "DiagonalScaling only; teach examples/explore.html and explore.py yours"
            )
    return described


def describe_m(coupling, arrays):
    """Describe the network m of a coupling, layer by layer: a list of dicts."""
    described = []
    for layer in coupling.m.layers:
        activation = layer.activation.__name__
        if activation not in ACTIVATIONS:
            raise UserError(
                f"the page knows the activations relu and linear, not {activation}"
            )
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        bias = keras.ops.convert_to_numpy(layer.bias)
        described.append(
            {
                "kernel": arrays.add(kernel),  # (inputs, outputs)
                "bias": arrays.add(bias),
                "activation": activation,
            }
        )
    return described


def mixture_arrays(model):
    """The model's mixture as the page wants it: a dict of NumPy arrays, or None.

    `means` (means, D) and `shares` (means,). `axes` (kinds, axes, D), common to the
    means of a kind, and `kind` (means,), the index in `axes` of each mean. `labels`, a
    list with the label of each kind, empty if the model knows no labels.
    """
    mixture = model.mixture
    if mixture is None:
        return None
    labels = mixture.mean_labels
    if labels is None:
        known = []
        kind = np.zeros(len(mixture.means), "int64")
    else:
        known, kind = np.unique(labels, return_inverse=True)
    chosen = np.random.default_rng(0).permutation(len(mixture.means))[:MOST_MEANS]
    return {
        "means": mixture.means[chosen],
        "shares": mixture.shares[chosen],
        "axes": mixture.axes,
        "kind": kind[chosen],
        "labels": [int(label) for label in known],
    }


def describe_mixture(mixture, arrays):
    """Describe the mixture, if there is one: a dict, or None."""
    if mixture is None:
        return None
    return {
        "labels": mixture["labels"],
        "kind": mixture["kind"].tolist(),
        "shares": mixture["shares"].tolist(),
        "axesOfKind": mixture["axes"].shape[1],
        "means": arrays.add(mixture["means"]),
        "axes": arrays.add(mixture["axes"]),
    }


def first_draws(model, mixture):
    """The first grid: what the page shows at once, and decodes again when it can.

    A draw is a mean and random numbers, from which the page makes the code at any
    temperature. Without a mixture the numbers are a code of the prior.
    """
    rng = np.random.default_rng(0)
    if mixture is None:
        means = None
        numbers = model.prior.sample(DRAWS, model.size)
        codes = TEMPERATURE * numbers
    else:
        shares = mixture["shares"].astype("float64")
        means = rng.choice(len(shares), DRAWS, p=shares / shares.sum())
        numbers = rng.normal(size=(DRAWS, mixture["axes"].shape[1])).astype("float32")
        axes = mixture["axes"][mixture["kind"][means]]  # (DRAWS, axes, D)
        moves = np.einsum("nk,nkd->nd", numbers, axes)
        codes = mixture["means"][means] + TEMPERATURE * moves
        means = means.tolist()
    images = nice.to_pixels(model.decode(codes), model.noise)
    return {
        "temperature": TEMPERATURE,
        "means": means,
        "numbers": in_base64(numbers, "float32"),
        "images": in_base64(images, "uint8"),
    }


def choose_test_images(images, labels):
    """Some test images to look at, of different labels where there are labels."""
    if labels is None:
        return images[:SHOWN_TEST_IMAGES]
    _, first = np.unique(labels, return_index=True)
    return images[first[:SHOWN_TEST_IMAGES]]


def make_page(model, images, labels=None, note=""):
    """Make the page of a model: the text of an HTML file.

    Args:
        model: a `Flow` of additive couplings and scalings.
        images: test images (n, *image_shape), in grey levels.
        labels: their labels (n,), or None.
        note: what the page says of the model beside its size, in plain text.

    Raises:
        UserError: the page cannot show this model.
    """
    if len(model.image_shape) < 2 or tuple(model.image_shape[2:]) not in CHANNELS:
        raise UserError(
            f"the page shows images, and this model is of {model.image_shape}"
        )
    if model.prior_name not in PRIORS:
        raise UserError(
            f"the page knows {' and '.join(PRIORS)}, not {model.prior_name}"
        )
    arrays = Arrays()
    mixture = mixture_arrays(model)
    description = {
        "shape": list(model.image_shape),
        "levels": model.levels,
        "noise": model.noise,
        "prior": model.prior_name,
        "weights": model.count_params(),
        "note": note,
        "steps": describe_steps(model, arrays),
        "mixture": describe_mixture(mixture, arrays),
        "first": first_draws(model, mixture),
    }
    nats = model.log_likelihood(images[:MOST_TEST_IMAGES])
    description["testNats"] = arrays.add(np.sort(nats), "float32")
    shown = choose_test_images(images, labels)
    description["testImages"] = in_base64(shown, "uint8")
    text = json.dumps(description).replace("<", "\\u003c")
    page = TEMPLATE.read_text("utf-8")
    page = page.replace("<!-- MODEL -->", text)
    return page.replace("<!-- ARRAYS -->", "\n".join(arrays.elements))


@command_line.program("examples.explore")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model",
        type=command_line.path,
        default=command_line.MODEL,
        help="model to show",
    )
    parser.add_argument(
        "--data",
        type=command_line.path,
        help="test images (default: those of the model's run)",
    )
    parser.add_argument(
        "--output",
        type=command_line.path,
        help="file to write (default: explore.html, beside the model)",
    )
    parser.add_argument("--note", default="", help="a line of the page on the model")
    args = parser.parse_args(argv)
    output = args.output or args.model.parent / "explore.html"
    model = nice.load(args.model)
    _, (x_test, y_test) = data.load(args.data or files.recorded_data(args.model))
    page = make_page(model, x_test, y_test, args.note)
    files.write_whole(output, lambda partial: partial.write_text(page, "utf-8"))
    print(f"{output.stat().st_size / 1e6:.0f} MB: open it in a browser")
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
