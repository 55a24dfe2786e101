"""Train NICE, a normalising flow, on MNIST:  python nice.py

NICE (Dinh, Krueger, Bengio, arXiv 1410.8516) learns an invertible map f from images x to codes z
that follow a simple density, the prior. Change of variables gives the exact density of an image,

    log q(x) = log prior(f(x)) + log |det df/dx|     (eq. 6),

which training maximises, and f backwards turns random codes into new images. Equation numbers
are the README's.
"""

from support import start  # isort: skip  # noqa: F401  (before Keras: it sets up the backends)

import dataclasses
import functools
import math
import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops

import layers
from support import command_line, data, devices, files
from support.checkpoint import Checkpoint
from support.files import load_encoder


def build_encoder(
    image_shape, couplings=4, prior="gaussian", scale_speed=4.0, levels=256, noise=1.0, **coupling
):
    """Build the encoder f: image -> code, a chain of couplings, the scaling, and the prior.

    It maps (batch, *image_shape), in grey levels 0...255, to (batch, D). The loss that its layers
    add is -log q(x): compile it with an optimiser and nothing else.

    Args:
        image_shape: of one image, such as (28, 28) or (32, 32, 3). An odd D is a ValueError.
        couplings, prior: how many; "gaussian" or "logistic".
        scale_speed, levels, noise, coupling: arguments of the layers, as in layers.py.
    """
    data.check_even(image_shape)
    image = keras.Input(image_shape, dtype="float32")
    h = keras.layers.Reshape((math.prod(image_shape),), dtype="float32")(image)
    h = layers.GreyLevels(levels, noise, name="grey_levels")(h)
    for i in range(couplings):  # log-determinants add up, and each is 0 (eqs. 10-12)
        h = layers.AdditiveCoupling(**coupling, name=f"coupling_{i + 1}")(h)
    z = layers.DiagonalScaling(scale_speed, name="scaling")(h)
    priors = {"gaussian": layers.GaussianPrior, "logistic": layers.LogisticPrior}
    return keras.Model(image, priors[prior](dtype="float32", name="prior")(z), name="encoder")


def flow_steps(encoder):
    """The steps of the flow in their order: grey levels, couplings, scaling."""
    return [layer for layer in encoder.layers if isinstance(layer, layers.FlowLayer)]


def build_decoder(encoder):
    """Build the decoder g = f^-1: the encoder's steps backwards, with the same weights.

    It maps codes (batch, D) to images (batch, *image_shape), in grey levels, not clipped.
    """
    h = code = keras.Input(encoder.output_shape[1:], dtype="float32")
    for step in reversed(flow_steps(encoder)):
        h = layers.Inverse(step, dtype="float32")(h)
    image = keras.layers.Reshape(encoder.input_shape[1:], dtype="float32")(h)
    return keras.Model(code, image, name="decoder")


def log_likelihood(encoder, images, noise=None, seed=0):
    """The exact log q(x) of each image, with all its constants (eq. 6): an array (n,) of nats.

    Args:
        images: array (n, *image_shape) in grey levels.
        noise: width of the noise to add, in grey levels. By default that of training: a density
            means something only for images like those. 0 for samples of the model itself.
        seed: which draw of the noise.
    """
    images = data.check_batch(encoder, images)
    noise = encoder.get_layer("grey_levels").noise if noise is None else noise
    nats = []
    for (x,) in Batches(images, 400, noise, seed, shuffle=False):
        h, log_q = ops.convert_to_tensor(x.reshape(len(x), -1)), 0.0
        for step in flow_steps(encoder):
            log_q += step.log_determinant(h)
            h = step.transform(h)
        nats.append(ops.convert_to_numpy(log_q + encoder.get_layer("prior").log_prob(h)))
    return np.concatenate(nats)


def bits_per_dimension(nats, encoder):
    """Bits to store one value of an image exactly, from the image's nats."""
    levels = encoder.get_layer("grey_levels").levels
    return (math.log(levels) - nats / encoder.output_shape[1]) / math.log(2)


def describe_likelihood(encoder, images):
    """A line with the mean log-likelihood of images, and the mean's standard error."""
    noise = encoder.get_layer("grey_levels").noise
    nats = log_likelihood(encoder, images, noise or 1)  # without noise a density means nothing
    error = f" ± {nats.std(ddof=1) / math.sqrt(len(nats)):.2f}" if len(nats) > 1 else ""
    line = f"log-likelihood of {len(nats):,} test images: {nats.mean():.2f}{error} nats"
    bits = f"{bits_per_dimension(nats.mean(), encoder):.3f} bits per dimension"
    return f"{line}, {bits}" if noise in (0, 1) else f"{line} (noise {noise:g} levels wide)"


class Batches(keras.utils.PyDataset):
    """Images as float32 batches for Keras, with uniform noise added ("dequantisation").

    Pixels take 256 values, and a density can grow without bound on a discrete set: noise as wide
    as a grey level fills the gaps. Order and noise depend only on (seed, epoch, batch), so a
    resumed run is exact, and all backends see the same images.

    Args:
        images, noise: array (n, *image_shape), and the width of the noise, in grey levels.
        shuffle: True to train: each epoch has its own order and noise, and drops the last,
            smaller batch (one shape to compile). False to measure: all images, in order.
    """

    def __init__(self, images, batch_size=128, noise=1.0, seed=0, shuffle=True):
        super().__init__()
        self.images, self.batch_size = images, min(batch_size, len(images))
        self.noise, self.seed, self.shuffle = noise, seed, shuffle
        self.epoch = 0  # in `train`, `Checkpoint` sets it

    def on_epoch_end(self):  # Keras calls it in a plain `fit`
        self.epoch += self.shuffle

    def __len__(self):
        count = len(self.images) / self.batch_size
        return math.floor(count) if self.shuffle else math.ceil(count)

    def __getitem__(self, i):
        order = np.arange(len(self.images))
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        x = self.images[order[i * self.batch_size : (i + 1) * self.batch_size]].astype("float32")
        rng = np.random.default_rng([self.seed, self.epoch, i + 1])  # + 1: 0 would be the order's
        return (x + self.noise * rng.random(x.shape, "float32"),)

    def feed(self):
        """This epoch's batches for `fit`; on TensorFlow a tf.data pipeline, which is faster."""
        if keras.backend.backend() != "tensorflow":
            return self
        import tensorflow as tf

        def read(i):
            x = tf.numpy_function(lambda i: self[i][0], [i], tf.float32)
            return (tf.ensure_shape(x, (None, *self.images.shape[1:])),)

        options = tf.data.Options()
        options.autotune.enabled = False  # it would cost more than it finds
        return tf.data.Dataset.range(len(self)).map(read).prefetch(1).with_options(options)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A model, and how to train it. The defaults are the recipe "digits"."""

    model: dict = dataclasses.field(default_factory=dict)  # arguments of `build_encoder`
    holdout: float = 1 / 6  # share of the training images kept back to choose the best epoch
    epochs: int = 5  # passes over the other training images
    batch_size: int = 128  # images in a step
    learning_rate: float = 1e-3  # Adam's, at first
    decay: float = 0.3  # share of the steps, the last, in which the rate falls to 0
    weight_decay: float = 0.0  # decoupled, on the couplings' matrices
    seed: int = 0  # of first weights, order and noise


SMALL = {"hidden_layers": 3, "hidden_units": 500}  # a fifth of the weights
ARTICLE = {"levels": 255, "noise": 0.0, "scale_speed": 1.0}
PAPER = {"output_activation": "linear", "prior": "logistic", "scale_speed": 10.0}
RECIPES = {
    "digits": Recipe(),
    "quick": Recipe(SMALL),
    # As in the article: no noise, a constant rate, and the test images choose the epoch.
    "article": Recipe(ARTICLE, holdout=0.0, epochs=20, decay=0.0),
    # The paper's model and data; how it is trained is ours.
    "paper": Recipe(PAPER, epochs=40, batch_size=200, decay=1.0, weight_decay=0.5),
}


def train(encoder, batches, validation, recipe, output):
    """Train the encoder, going on from the output folder's backup if there is one.

    Args:
        batches, validation: `Batches` to train on, and to choose the best epoch by.
        recipe, output: a `Recipe`, and a folder for `nice.keras` and what `Checkpoint` keeps.
    """
    rate, steps = recipe.learning_rate, recipe.epochs * len(batches)
    if falling := round(recipe.decay * steps):  # constant, then a cosine to 0
        rate = keras.optimizers.schedules.CosineDecay(
            rate, falling, warmup_target=rate, warmup_steps=steps - falling
        )
    adam = keras.optimizers.Adam(rate, weight_decay=recipe.weight_decay or None)
    adam.exclude_from_weight_decay(var_names=["bias", "log_s"])
    encoder.compile(adam)  # the loss, -log q(x), is what the layers add

    decoder, z = build_decoder(encoder), encoder.get_layer("prior").sample(225, temperature=0.8)
    draw = functools.partial(decoder.predict_on_batch, z)  # the same codes after each epoch
    # After each epoch: the best model by `val_loss`, a grid, the history, and a backup.
    checkpoint = Checkpoint(Path(output), batches, draw, monitor="val_loss")
    encoder.fit(
        batches.feed(),
        validation_data=validation,
        epochs=recipe.epochs,
        initial_epoch=checkpoint.restore(encoder),
        shuffle=False,  # `Batches` does
        callbacks=[checkpoint],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    return checkpoint


def fit_codes(encoder, images, labels=None, styles=100, axes=24):
    """Fit a `CodeSampler` to training images' codes; return a new encoder that ends in it.

    With few or large images, or many labels, there are fewer codes (at most 125 MB), styles (of
    all labels together) and axes (of each style; at most 8 MB). Without `labels`, an integer for
    each image, styles are clusters of all codes.
    """
    images, size = data.check_batch(encoder, images), encoder.output_shape[1]
    chosen = np.random.default_rng(0).permutation(len(images))[: min(40_000, 31_360_000 // size)]
    labels = data.labels(labels, len(images), "labels")[chosen]
    kinds = len(set(labels.tolist()))
    per_label = max(1, min(styles, len(chosen) // 100) // kinds)
    axes = max(1, min(axes, size, 2_000_000 // (size * kinds * per_label) - 1))
    what = f"{len(chosen):,} training images {'without' if labels[0] is None else 'with'} labels"
    print(f"encoding {what}, to draw codes like theirs", flush=True)
    noise, sigma = encoder.get_layer("grey_levels").noise, encoder.get_layer("scaling").sigma
    batches = Batches(images[chosen], 400, noise, shuffle=False)
    z = np.concatenate([ops.convert_to_numpy(encoder(x)) for (x,) in batches])
    sampler = layers.CodeSampler.fit(z, labels, sigma, per_label, axes)
    return keras.Model(encoder.input, sampler(encoder.get_layer("prior").output), name="encoder")


@command_line.program
def main(argv):
    args, recipe = command_line.parse_training(argv, RECIPES)
    model = args.output / "nice.keras"
    trained = model if args.evaluate else args.start
    encoder = load_encoder(trained) if trained else None
    source = args.data or (files.recorded_data(trained) if trained else data.MNIST)
    (x_train, y_train), (x_test, _) = data.load(source)
    if args.evaluate:
        print(f"{source}, {devices.describe()}: {describe_likelihood(encoder, x_test)}")
        return 0
    held = max(1, round(recipe.holdout * len(x_train))) if recipe.holdout else 0
    x_train, x_held = np.split(x_train, [len(x_train) - held])
    devices.use_all(recipe.batch_size, 400, (held or len(x_test)) % 400)
    keras.utils.set_random_seed(recipe.seed)
    encoder = encoder or build_encoder(x_train.shape[1:], **recipe.model)
    noise = encoder.get_layer("grey_levels").noise
    batches = Batches(data.check_batch(encoder, x_train), recipe.batch_size, noise, recipe.seed)
    validation = Batches(x_held if held else x_test, 400, noise, shuffle=False)
    settings = dataclasses.asdict(recipe) | {"data": str(Path(source).resolve())}
    settings["start"] = str(args.start and args.start.resolve())
    settings["fingerprint"] = data.fingerprint(x_train, x_held, x_test)
    files.claim(args.output, settings, args.fresh)
    print(f"{encoder.count_params():,} parameters, {len(x_train):,} images, {devices.describe()}")
    print("Ctrl-C stops; the same command, without --fresh, goes on")
    checkpoint = train(encoder, batches, validation, recipe, args.output)
    if best := checkpoint.best():
        print(f"best epoch: {best['epoch']}, with a loss of {best['val_loss']:.2f}")
        encoder = fit_codes(load_encoder(model), x_train, y_train[: len(x_train)])
        files.replace(model, encoder.save)
    checkpoint.finish()
    if best and held:  # else the test images chose the epoch, and are no test of it
        print("measuring the test images", flush=True)
        print(describe_likelihood(encoder, x_test))
    if not math.isfinite(checkpoint.history[-1]["loss"]):
        kept = f"its best model is {model}" if best else "there is no model of it"
        raise ArithmeticError(f"training diverged: lower --learning-rate; {kept}")
    print(f"next: python sample.py --model {model}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
