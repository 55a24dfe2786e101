"""What if a coupling could scale, too?  python -m examples.affine

NICE's couplings only shift, so it changes the volume around every image by the same
factor, that of its scaling. Its follower, Real NVP (Dinh, Sohl-Dickstein, Bengio, arXiv
1605.08803), lets m give a scale as well as a shift. Here both are trained alike, at the
size of the recipe "quick". It takes some minutes.

affine.png shows draws from both priors. The affine flow finds the test images far
likelier, and yet its draws are grain: a better likelihood is not a better picture. Much
of a likelihood is how narrow the density is around pixels that hardly ever change, and
nobody sees that. A table of how often each pixel has each grey level, which knows no
shapes, is better than both flows (`python -m benchmarks.likelihood`).

A step of your own needs no change elsewhere:

1. Write a `layers.FlowLayer` as below: `call`, `inverse` and, to save it, `get_config`.
2. Give it to `nice.Flow`. Loss, likelihood, decoder, draws and saving follow from it.
3. Add it to the list of steps in `build` of tests/test_flows.py: all tests try it then.
"""

from support import command_line, data, pictures

import layers
import nice

import sys
from pathlib import Path

import keras
from keras import ops

GRID = pictures.GRID
LARGEST = 2.0  # s of a coupling lies between -2 and 2, so a factor is at most 7.4


@keras.saving.register_keras_serializable("affine")
class AffineCoupling(layers.FlowLayer):
    """Scale and shift one half of the dimensions by a network `m` of the other half.

    The input is split as in `layers.AdditiveCoupling`. `m` gives t and s, and then

        call:       h1 = x1,  h2 = x2 * exp(s(x1)) + t(x1)
        inverse:    x1 = h1,  x2 = (h2 - t(h1)) * exp(-s(h1))

    In the order x1, x2 the Jacobian is triangular. Its diagonal has ones, and exp(s).
    So log |det| is the sum of s(x1), which differs from image to image.

    The encoder multiplies and the decoder divides, as in the paper. The other way
    round a run on MNIST ended with a lower likelihood.

    Args:
        hidden_layers: number of hidden layers of `m`.
        hidden_units: width of each hidden layer.
    """

    def __init__(self, hidden_layers=3, hidden_units=500, **kwargs):
        super().__init__(**kwargs)
        self.hidden_layers = hidden_layers
        self.hidden_units = hidden_units

    def build(self, input_shape):
        half = input_shape[-1] // 2
        self.m = keras.Sequential(name="m")
        for i in range(self.hidden_layers):
            hidden = keras.layers.Dense(self.hidden_units, "relu", name=f"hidden_{i}")
            self.m.add(hidden)
        # With zeros here s = t = 0, and training starts from couplings that do nothing.
        output = keras.layers.Dense(2 * half, kernel_initializer="zeros", name="output")
        self.m.add(output)
        self.m.build((None, half))

    def scale_and_shift(self, x1):
        """s and t, tensors (batch, D / 2)."""
        s, t = ops.split(self.m(x1), 2, axis=-1)
        # Factors of four couplings multiply: none of them may grow without bound.
        s = LARGEST * ops.tanh(s / LARGEST)
        return s, t

    def call(self, x):
        x = ops.flip(x, axis=-1)
        x1 = x[:, 0::2]
        x2 = x[:, 1::2]
        s, t = self.scale_and_shift(x1)
        h = layers.interleave(x1, x2 * ops.exp(s) + t)
        return h, ops.sum(s, axis=-1)

    def inverse(self, h):
        h1 = h[:, 0::2]
        h2 = h[:, 1::2]
        s, t = self.scale_and_shift(h1)
        x = layers.interleave(h1, (h2 - t) * ops.exp(-s))
        return ops.flip(x, axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_layers": self.hidden_layers,
            "hidden_units": self.hidden_units,
        }


def build_nice(image_shape):
    """NICE, of the size of the recipe "quick"."""
    return nice.build_encoder(image_shape, **nice.RECIPES["quick"].model)


def build_affine(image_shape):
    """The same with affine couplings."""
    steps = [AffineCoupling(name=f"coupling_{i + 1}") for i in range(4)]
    steps.append(layers.DiagonalScaling(learning_rate_multiplier=4.0, name="scaling"))
    return nice.Flow(image_shape, steps)


def train(model, images, epochs):
    """Train a flow by Adam, with a rate that falls from 0.001 to 0 along a cosine."""
    batches = nice.Batches(images, batch_size=128, noise=model.noise)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * len(batches))
    model.compile(keras.optimizers.Adam(rate), jit_compile=nice.use_xla())
    # `Batches` shuffles by itself.
    model.fit(batches, epochs=epochs, shuffle=False, verbose=2)


def plot(drawn):
    """Draw a grid for each flow: a dict of names and images."""
    figure, axes = pictures.plot(9, 4.8, columns=2)
    for ax, (name, images) in zip(axes, drawn.items(), strict=True):
        ax.imshow(pictures.grid(images, GRID, GRID), cmap="gray")
        ax.set(title=name, xticks=[], yticks=[])
    return figure


@command_line.program("examples.affine")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default=data.MNIST, help=".npz file of images (default: MNIST)")
    add("--output", type=Path, default=Path("affine.png"), help="file to write")
    add("--epochs", type=command_line.positive, default=5, help="passes over images")
    args = parser.parse_args(argv)
    (x_train, _), (x_test, _) = data.load(args.data)

    drawn = {}
    for name, build in {"NICE": build_nice, "affine": build_affine}.items():
        keras.utils.set_random_seed(0)
        model = build(x_train.shape[1:])
        print(f"{name}: {model.count_params():,} parameters", flush=True)
        train(model, x_train, args.epochs)
        print(f"{name}: {nice.describe_likelihood(model, x_test)}", flush=True)
        drawn[name] = model.sample(GRID * GRID, temperature=0.8, source="prior")

    pictures.save(args.output, plot(drawn))
    print(
        f"{args.output}: draws from the prior, NICE's on the left, affine on the right"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
