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

What makes digits of the affine flow's draws is noise that one can see, and a gradient
that takes it off: `python -m examples.denoise`.

A step of your own needs no change elsewhere:

1. Write a `layers.Coupling` as below, with `transform` and `undo`. Or write another
   `layers.FlowLayer`, with `call`, `inverse` and, to save it, `get_config`.
2. Give it to `nice.Flow`. Loss, likelihood, decoder, draws and saving follow from it.
3. Add a flow with it to `FLOWS` in tests/test_flows.py: all tests try it then.
"""

from support import backends, command_line, data, pictures
from support.pictures import GRID, TEMPERATURE

import layers
import nice

import sys

import keras
from keras import ops

LARGEST = 2.0  # s of a coupling lies between -2 and 2, so a factor is at most 7.4


@keras.saving.register_keras_serializable("affine")
class AffineCoupling(layers.Coupling):
    """Scale and shift one half of the dimensions by a network `m` of the other half.

    `m` gives s and t, and then

        call:       h1 = x1,  h2 = x2 * exp(s(x1)) + t(x1)
        inverse:    x1 = h1,  x2 = (h2 - t(h1)) * exp(-s(h1))

    In the order x1, x2 the Jacobian is triangular. Its diagonal has ones, and exp(s).
    So log |det| is the sum of s(x1), which differs from image to image.

    The encoder multiplies and the decoder divides, as in the paper. The other way
    round a run on MNIST ended with a lower likelihood.

    Args: those of `layers.Coupling`. `m` ends without a ReLU: one that starts at zeros
        would have no gradient, and never learn.
    """

    numbers_per_value = 2  # s and t
    output_initializer = "zeros"  # so s = t = 0: it starts as a step that does nothing

    def __init__(
        self, hidden_layers=3, hidden_units=500, output_activation="linear", **kwargs
    ):
        super().__init__(hidden_layers, hidden_units, output_activation, **kwargs)

    def transform(self, x2, m):
        s, t = self.scale_and_shift(m)
        return x2 * ops.exp(s) + t, ops.sum(s, axis=-1)

    def undo(self, h2, m):
        s, t = self.scale_and_shift(m)
        return (h2 - t) * ops.exp(-s)

    def scale_and_shift(self, m):
        """s and t, tensors (batch, D / 2)."""
        s, t = ops.split(m, 2, axis=-1)
        # Factors of four couplings multiply: none of them may grow without bound.
        s = LARGEST * ops.tanh(s / LARGEST)
        return s, t


def build_nice(image_shape, couplings=4):
    """NICE, of the size of the recipe "quick"."""
    size = nice.RECIPES["quick"].model
    return nice.build_encoder(image_shape, couplings, **size)


def build_affine(image_shape, couplings=4):
    """The same with affine couplings."""
    size = nice.RECIPES["quick"].model
    steps = []
    for i in range(couplings):
        name = f"coupling_{i + 1}"
        steps.append(AffineCoupling(**size, name=name))
    steps.append(layers.DiagonalScaling(learning_rate_multiplier=4.0, name="scaling"))
    return nice.Flow(image_shape, steps)


BUILDERS = {"NICE": build_nice, "affine": build_affine}


def train(model, batches, epochs):
    """Train a flow by Adam, with a rate that falls from 0.001 to 0 along a cosine."""
    rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * len(batches))
    model.compile(keras.optimizers.Adam(rate), jit_compile=backends.use_xla())
    verbose = command_line.verbose(elsewhere=2)
    model.fit(batches, epochs=epochs, verbose=verbose)


@command_line.program("examples.affine")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    path = command_line.path
    add("--data", type=path, default=data.MNIST, help=".npz file (default: MNIST)")
    add("--output", type=path, default=path("affine.png"), help="file to write")
    add("--epochs", type=command_line.positive, default=5, help="passes over images")
    args = parser.parse_args(argv)
    (x_train, _), (x_test, _) = data.load(args.data)

    drawn = {}
    for name, build in BUILDERS.items():
        keras.utils.set_random_seed(0)
        model = build(x_train.shape[1:])
        print(f"{name}: {model.count_params():,} parameters", flush=True)
        train(model, nice.Batches(x_train, noise=model.noise), args.epochs)
        print(f"{name}: {nice.describe_likelihood(model, x_test)}", flush=True)
        images = model.sample(GRID * GRID, TEMPERATURE)
        drawn[f"{name}, T = {TEMPERATURE}"] = pictures.in_rows(images, GRID)

    pictures.save(args.output, pictures.titled(drawn))
    print(f"{args.output}: draws from both priors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
