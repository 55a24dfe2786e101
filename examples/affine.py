"""What if a coupling could scale, too?  python -m examples.affine

NICE's couplings only shift. So each dimension has one width, the same for all images,
and volumes change by one factor around every image. Its follower, Real NVP (Dinh,
Sohl-Dickstein, Bengio, arXiv 1605.08803), lets m give a scale as well as a shift: where
the pixels around are background, a pixel can be narrow. Here both are trained alike,
with the network of the recipe "quick". It takes some minutes.

affine.png shows draws from both priors. The affine flow finds the test images far
likelier, and its backgrounds are cleaner. But its strokes are speckled, and no more
digits can be read: a better likelihood is not a better picture. What makes more of its
draws readable is noise that one can see, and a gradient that takes it off:
`python -m examples.denoise`.

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


@keras.saving.register_keras_serializable("affine")
class AffineCoupling(layers.Coupling):
    """Scale and shift one half of the dimensions by a network `m` of the other half.

    `m` gives r (Real NVP's s) and t, and then

        call:       h1 = x1,  h2 = x2 * exp(r(x1)) + t(x1)
        inverse:    x1 = h1,  x2 = (h2 - t(h1)) * exp(-r(h1))

    In the order x1, x2 the Jacobian is triangular. Its diagonal has ones, and exp(r).
    So log |det| is the sum of r(x1), which differs from image to image.

    The encoder multiplies and the decoder divides, as in Real NVP. The other way
    round a run on MNIST ended with a lower likelihood.

    Args: those of `layers.Coupling`. `m` ends without a ReLU: one that starts at zeros
        would have no gradient, and never learn.
    """

    numbers_per_value = 2  # r and t
    output_initializer = "zeros"  # so r = t = 0: it starts as a step that does nothing

    def __init__(
        self, hidden_layers=3, hidden_units=500, output_activation="linear", **kwargs
    ):
        super().__init__(hidden_layers, hidden_units, output_activation, **kwargs)

    def transform(self, x2, m):
        r, t = self.scale_and_shift(m)
        return x2 * ops.exp(r) + t, ops.sum(r, axis=-1)

    def undo(self, h2, m):
        r, t = self.scale_and_shift(m)
        return (h2 - t) * ops.exp(-r)

    def scale_and_shift(self, m):
        """r and t, tensors (batch, D / 2)."""
        r, t = ops.split(m, 2, axis=-1)
        # Factors of several couplings multiply, so each is kept between 1 / e and e.
        return ops.tanh(r), t


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
    """Train a flow as nice.py does, but on all images, and keep the last epoch."""
    recipe = nice.Recipe(epochs=epochs)
    adam = nice.make_optimizer(model, recipe, epochs * len(batches))
    model.compile(adam, jit_compile=backends.use_xla())
    model.fit(batches, epochs=epochs, verbose=command_line.verbose(elsewhere=2))


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
