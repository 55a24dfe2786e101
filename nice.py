"""Train NICE, a normalising flow, on MNIST:  python nice.py

NICE (Dinh, Krueger, Bengio, arXiv 1410.8516) learns an invertible map f from images x to codes
z that follow a simple density, the prior. Change of variables then gives the exact density of
every image (eq. 6),

    log q(x) = log prior(f(x)) + log |det df/dx|,

which training maximises, and f backwards turns random codes into new images. The file follows
that order: recipes, encoder and decoder, likelihood, training. Equation numbers are the README's.
"""

from support import startup  # isort: skip  (first: programs start quietly, before Keras)

import dataclasses
import functools
import itertools
import math
import sys

import keras
import numpy as np
from keras import ops

from layers import (
    AdditiveCoupling,
    CodeSampler,
    DiagonalScaling,
    FlowLayer,
    GaussianPrior,
    GreyLevels,
    Inverse,
    LogisticPrior,
    MixturePrior,
    UniformNoise,
)
from support import backends, command_line, data, gaussians, history, model_files, runs
from support.batches import Batches

# --- Recipes ---------------------------------------------------------------------------------

PRIORS = {
    "gaussian": GaussianPrior,
    "logistic": LogisticPrior,
    "mixture": MixturePrior,
    "grouped": functools.partial(MixturePrior, components=16, groups=64),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A named set of values; the defaults are the recipe "digits", chosen for what it draws."""

    # The model.
    couplings: int = 4  # layers that shift one half of the image by a network m of the other
    hidden_layers: int = 5  # in each coupling's network m
    hidden_units: int = 1000  # in each hidden layer
    output_activation: str = "relu"  # of m: "relu" as in the article, "linear" as in the paper
    output_gain: float = 1.0  # how large m's last matrix starts
    prior: str = "gaussian"  # density of the codes, one of PRIORS
    scale_speed: float = 4.0  # how much faster log s learns than the other weights
    scale_from_data: bool = False  # start log s where the untrained flow's codes want it
    # The images.
    levels: int = 256  # x = pixel / 256 + u, as in the paper; with 255, x = pixel / 255 - u
    noise: float = 1 / 256  # width of the uniform noise u, white being 1: one grey level
    holdout: float = 1 / 6  # share of the training images kept back, to choose the best epoch
    # The training.
    epochs: int = 10  # passes over the training images
    batch_size: int = 128  # images in a step
    learning_rate: float = 1e-3  # Adam's, or its peak
    decay: float = 0.3  # share of the steps, the last ones, in which the rate falls to 0
    warmup: bool = False  # let the rate rise from 0 until the decay begins
    weight_decay: float = 0.0  # decoupled, on the couplings' matrices
    seed: int = 0  # of first weights, order of the images, and noise


RECIPES = {
    "digits": Recipe(),
    # The article to the letter: no noise, a constant rate, and the test images choose the epoch.
    "article": Recipe(scale_speed=1.0, levels=255, noise=0.0, holdout=0.0, epochs=20, decay=0.0),
    # The paper's model and data; how it is trained is ours.
    "paper": Recipe(
        output_activation="linear",
        output_gain=0.01,
        prior="logistic",
        scale_speed=10.0,
        scale_from_data=True,
        epochs=40,
        batch_size=200,
        decay=0.97,
        warmup=True,
        weight_decay=0.5,
    ),
    # The likeliest: a density of the codes is learned, too, in 64 groups.
    "likelihood": Recipe(
        output_gain=0.01,
        prior="grouped",
        epochs=5,
        batch_size=200,
        decay=1.0,
    ),
}

# --- Encoder and decoder ---------------------------------------------------------------------


def build_encoder(image_shape, recipe):
    """Build the encoder f: image -> code, a chain of couplings, the scaling, and the prior.

    Args:
        image_shape: shape of one image, such as (28, 28) or (32, 32, 3); its number of values
            D must be even.
        recipe: a `Recipe`.

    Returns:
        A `keras.Model` from (batch, *image_shape), in grey levels 0...255, to (batch, D). Its
        layers go by names: "noise", "grey_levels", "coupling_1" and so on, "scaling", "prior".
        The prior judges the codes and adds its share of the objective to the model's loss.

    Raises:
        ValueError: a size below 1, an odd D or a negative noise.
    """
    if recipe.couplings < 1:
        raise ValueError(f"couplings must be at least 1, got {recipe.couplings}")
    levels = recipe.levels
    # There is room for noise above white if white is 255/256; else it can only darken.
    low, high = (0, recipe.noise) if levels == 256 else (-recipe.noise, 0)

    image = keras.Input(image_shape, dtype="float32")
    h = keras.layers.Reshape((math.prod(image_shape),), dtype="float32")(image)
    h = UniformNoise(levels * low, levels * high, name="noise")(h)
    h = GreyLevels(levels, name="grey_levels")(h)
    for i in range(recipe.couplings):  # log-determinants add up, each is 0 (eqs. 10-12)
        h = AdditiveCoupling(
            recipe.hidden_layers,
            recipe.hidden_units,
            recipe.output_activation,
            recipe.output_gain,
            name=f"coupling_{i + 1}",
        )(h)
    prior = PRIORS[recipe.prior](name="prior")
    scaling = DiagonalScaling(recipe.scale_speed, trainable=not prior.learns_widths, name="scaling")
    z = scaling(h)
    return keras.Model(image, prior(z), name="encoder")


def build_decoder(encoder):
    """Build the decoder g = f^-1: code -> image, by walking the encoder's layers backwards.

    It shares the encoder's weights and adds none, so it follows the encoder through training.
    The encoder may also come from a file (`load_encoder`).

    Returns:
        A `keras.Model` from (batch, D) to (batch, *image_shape), in grey levels, not clipped.
    """
    code = keras.Input(encoder.output_shape[1:], dtype="float32")
    h = code
    for layer in reversed(encoder.layers):
        if isinstance(layer, FlowLayer):
            h = Inverse(layer)(h)
    image = keras.layers.Reshape(encoder.input_shape[1:], dtype="float32")(h)
    return keras.Model(code, image, name="decoder")


def load_encoder(path):
    """Load an encoder from a .keras file, without running any code that the file may carry.

    Raises:
        ValueError: the file is missing, damaged, or not a NICE encoder.
    """

    def use(encoder):
        for name in ("noise", "grey_levels", "scaling", "prior"):
            encoder.get_layer(name)
        build_decoder(encoder)

    return model_files.load(path, use)


# --- Likelihood ------------------------------------------------------------------------------


def log_likelihood(encoder, images, noise=None, seed=0):
    """The exact log q(x) of each image, with all its constants (eq. 6).

    It means something only for images with the noise that the encoder was trained with.

    Args:
        images: array of images in grey levels.
        noise: the `UniformNoise` to add, by default the encoder's own. `UniformNoise(0, 0)` adds
            nothing: for samples of the model, say, which are not in whole grey levels.
        seed: which draw of the noise.

    Returns:
        An array of nats, one an image. The density is that of x in [0, 1].
    """
    batches = Batches(images, noise=noise or encoder.get_layer("noise"), seed=seed)
    prior = encoder.get_layer("prior")
    codes = batches.through(encoder)
    log_prior = np.concatenate([ops.convert_to_numpy(prior.log_prob(z)) for z in codes])
    steps = [layer for layer in encoder.layers if isinstance(layer, FlowLayer)]
    return log_prior + sum(ops.convert_to_numpy(step.log_determinant()) for step in steps)


def bits_per_dimension(nats, encoder):
    """Bits to store one value of an image exactly, from an image's nats."""
    levels = encoder.get_layer("grey_levels").levels
    return (math.log(levels) - nats / encoder.output_shape[1]) / math.log(2)


def dequantises(encoder):
    """Whether x = (pixel + u) / 256: nats can be compared with the paper's, and told in bits."""
    noise, levels = encoder.get_layer("noise"), encoder.get_layer("grey_levels").levels
    return levels == 256 and math.isclose(noise.high - noise.low, 1)


def describe_likelihood(encoder, images, draws=10):
    """Measure the test log-likelihood over some draws of the noise; return a line that says it.

    The standard error is that of the mean over the images, each image's draws averaged first.
    """
    noise, levels = encoder.get_layer("noise"), encoder.get_layer("grey_levels").levels
    width = noise.high - noise.low
    if width == 0:
        noise = UniformNoise(0, 1)
    nats = np.mean([log_likelihood(encoder, images, noise, seed) for seed in range(draws)], axis=0)
    line = f"test log-likelihood: {nats.mean():.2f} ± {nats.std() / math.sqrt(len(nats)):.2f} nats"
    bits = f", {bits_per_dimension(nats.mean(), encoder):.3f} bits/dim"
    if width == 0:
        between = "the model knows nothing of what lies between levels"
        return f"{line}{bits} (trained without noise, {between})"
    if dequantises(encoder):
        return line + bits
    paper = "the paper's 1980.50 is of (pixel + u) / 256: do not compare"
    return f"{line} (of x = (pixel + {width:g} u) / {levels}; {paper})"


# --- Training --------------------------------------------------------------------------------


def hold_out(count, recipe):
    """Choose which of the training images train, and which, from the end, choose the epoch."""
    held = int(count * recipe.holdout)
    return np.arange(count - held), np.arange(count - held, count)


def start_from_data(encoder, batches, count=10000):
    """Start s, or the weights of a prior that learns, where the untrained flow's codes want it.

    Most pixels hardly vary, so their s has far to go, and Adam moves log s by one learning rate
    a step.
    """
    scaling, prior = encoder.get_layer("scaling"), encoder.get_layer("prior")
    chosen = np.random.default_rng(0).permutation(batches.rows)[:count]
    some = Batches(batches.images, chosen, noise=encoder.get_layer("noise"))
    couplings = keras.Model(encoder.input, scaling.input)
    h = gaussians.gather(some.through(couplings), len(chosen), encoder.output_shape[1])
    scaling.log_scale_over_speed.assign(prior.adapt(h) / scaling.speed)


def fit_codes(encoder, batches):
    """Fit a `CodeSampler` to training images' codes; return a new encoder that ends in it.

    The prior, and so the likelihood, stay what they were.
    """
    sigma = encoder.get_layer("scaling").sigma
    chosen = np.random.default_rng(0).permutation(np.sort(batches.rows))
    some = Batches(batches.images, chosen, noise=encoder.get_layer("noise"))

    def parts(count):
        few = itertools.islice(some.through(encoder), count // some.batch_size)
        return (z * sigma for z in few)

    components = max(1, min(100, len(chosen) // 50))
    fitted = CodeSampler(components, min(120, len(sigma)), name="fitted")
    output = fitted(encoder.get_layer("prior").output)  # in place of an earlier one, if any
    fitted.fit(parts, sigma)
    return keras.Model(encoder.input, output, name="encoder")


def make_optimizer(recipe, steps, weights):
    """Adam for these weights, with the recipe's learning rate over a training of so many steps."""
    rate, falling = recipe.learning_rate, round(recipe.decay * steps)
    if falling:  # what Keras calls a warm-up stands for a constant rate, too
        start = 0.0 if recipe.warmup else rate
        rate = keras.optimizers.schedules.CosineDecay(
            start, falling, warmup_target=rate, warmup_steps=steps - falling
        )
    adam = keras.optimizers.Adam(rate, weight_decay=recipe.weight_decay or None)
    adam.exclude_from_weight_decay([weight for weight in weights if weight.name != "kernel"])
    return adam


def in_nats_and_bits(encoder, loss):
    """A loss, in nats an image, as a likelihood: a dict, empty where it would not compare."""
    if not dequantises(encoder):
        return {}
    prior = encoder.get_layer("prior")
    nats = -loss - prior.dimensions * prior.omitted
    return {"log_likelihood": nats, "bits_per_dim": bits_per_dimension(nats, encoder)}


def train(encoder, batches, validation, recipe, output):
    """Train the encoder, going on from the output folder's backup if there is one.

    Args:
        encoder: an encoder built for this recipe.
        batches, validation: `Batches` to train on, and to choose the best epoch by.
        recipe: a `Recipe`.
        output: a folder that `runs.folder` has made ready. `RunKeeper` says what is kept there.

    Returns:
        The history: a dict for each epoch, losses in nats per image.

    Raises:
        ValueError: the backup is damaged.
    """
    adam = make_optimizer(recipe, recipe.epochs * len(batches), encoder.trainable_weights)
    encoder.compile(adam)  # the loss is what the layers add
    decoder, prior = build_decoder(encoder), encoder.get_layer("prior")
    keeper = history.RunKeeper(
        output,
        batches,
        draw=lambda count: ops.convert_to_numpy(decoder(prior.sample(count, temperature=0.8))),
        seed=recipe.seed,
        describe=lambda loss: in_nats_and_bits(encoder, loss),
    )
    done = keeper.load_backup(encoder)
    if not done and (recipe.scale_from_data or prior.learns_widths):
        start_from_data(encoder, batches)
    encoder.fit(
        batches.feed(),
        validation_data=validation,
        epochs=recipe.epochs,
        initial_epoch=done,
        shuffle=False,  # `keeper` does, by seed and epoch
        callbacks=[keeper],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    if history.best(keeper.history):
        best = fit_codes(load_encoder(output / "nice.keras"), batches)
        runs.replace(output / "nice.keras", best.save)
    keeper.finish()
    return keeper.history


# --- The program -----------------------------------------------------------------------------


@startup.program("nice.py")
def main(argv):
    """Train as the command line says; return the exit status."""
    args = command_line.training_parser(RECIPES, PRIORS).parse_args(argv)
    model = args.output / "nice.keras"
    if args.evaluate:
        x_test, _ = data.load_test_images(args.data)
        encoder = load_encoder(model)
        data.check_shape(encoder, x_test)
        print(backends.describe_device())
        print(describe_likelihood(encoder, x_test))
        return 0

    x_train, x_test, _ = data.load_images(args.data)
    backends.check_floatx()
    recipe = command_line.override(RECIPES[args.recipe], args)
    keras.utils.set_random_seed(recipe.seed)
    training, held = hold_out(len(x_train), recipe)
    backends.use_all_devices(recipe.batch_size, len(training), len(held), len(x_test))
    encoder = build_encoder(x_train.shape[1:], recipe)
    batches = Batches(x_train, training, recipe.batch_size)
    if len(held):
        validation = Batches(x_train, held, noise=encoder.get_layer("noise"))
    else:  # as in the article, on images without noise
        validation = Batches(x_test)

    settings = dataclasses.asdict(recipe) | {"data": data.fingerprint(x_train, x_test)}
    with runs.folder(args.output, settings, args.fresh):
        print(
            f"{encoder.count_params():,} parameters, {len(training):,} training images of shape "
            f"{x_train.shape[1:]}, {len(validation.rows):,} to choose the model, "
            f"{backends.describe_device()}"
        )
        epochs = train(encoder, batches, validation, recipe, args.output)

    status = history.report(epochs, "validation" if len(held) else "test")
    if history.best(epochs):
        if len(held):  # else the test images have chosen the model, and are no test of it
            print(describe_likelihood(load_encoder(model), x_test))
        print(f"model: {model}\nnext:  python sample.py{command_line.model_option(model)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
