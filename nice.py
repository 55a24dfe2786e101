"""Train NICE, a normalising flow, on MNIST:  python nice.py

NICE (Dinh, Krueger, Bengio, arXiv 1410.8516) learns an invertible map f from images x
to codes z that follow a simple density, the prior. The change of variables gives the
exact density of an image,

    log q(x) = log prior(f(x)) + log |det df/dx|     (eq. 6).

Training maximises it. Run backwards, f turns random codes into new images. Equation
numbers are the README's, and so is what "the article" means.
"""

# `support` comes first: it sets up the backends before Keras starts them.
from support import checkpoint, command_line, data, devices, files, styles
from support.errors import UserError

import layers

import dataclasses
import math
import os
import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops

EVALUATION_BATCH = 400  # images in a batch where nothing is learned


# --- The model -----------------------------------------------------------------------


@keras.saving.register_keras_serializable("nice")
class Flow(keras.Model):
    """A flow. Called, it is the encoder: images -> codes and log-determinants.

    It maps images (batch, *image_shape), in grey levels 0...255, to codes z (batch, D)
    and log |det dz/dx| (batch,), where x = grey level / levels. `decoder` is the
    inverse model, with the same weights: z -> images in grey levels, not clipped.

    It is a functional Keras model: `summary` and `save` see its steps. Compile it with
    an optimiser and nothing else, as it has its own loss. `copy.deepcopy` copies it,
    `keras.models.clone_model` would forget the loss.

    Args:
        image_shape: of one image, such as (28, 28) or (32, 32, 3).
        steps: a list of `layers.FlowLayer`, in the encoder's order.
        prior: "gaussian" or "logistic".
        levels: what grey levels are divided by: 256, which leaves room above white for
            noise one level wide, or 255, which makes white 1.
        noise: width, in grey levels, of the noise that training adds. It is kept here
            because likelihoods are measured under the same noise.

    Raises:
        UserError: Keras is set to another precision than float32.
    """

    def __init__(
        self, image_shape, steps, prior="gaussian", levels=256, noise=1.0, **kwargs
    ):
        require_float32()
        image = keras.Input(tuple(image_shape), name="image")
        size = math.prod(image_shape)
        z = keras.layers.Reshape((size,), name="flatten")(image)
        z = keras.layers.Rescaling(1 / levels, name="units")(z)
        log_det = 0.0
        for step in steps:
            z, step_log_det = step(z)
            log_det = log_det + step_log_det  # those of a chain add up
        super().__init__(image, [z, log_det], **kwargs)
        self.image_shape = tuple(image_shape)
        self.size = size
        self.steps = steps
        self.prior_name = prior
        self.prior = layers.PRIORS[prior]()
        self.levels = levels
        self.noise = noise
        self.styles = None  # a mixture fitted to codes: see `fit_styles`
        self.decoder = build_decoder(self)

    # Density, loss and sampling.

    def log_density(self, z, log_det):
        """log q(x) of images with these codes and log-determinants, in nats (eq. 6)."""
        return self.prior.log_prob(z) + log_det

    def log_prob(self, images):
        """log q(x) of a batch of images; no noise is added: a tensor (batch,), nats."""
        z, log_det = self(images)
        return self.log_density(z, log_det)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The loss that `fit` minimises: the mean of -log q(x), in nats."""
        z, log_det = y_pred
        regularisation = sum(self.losses)  # 0, unless a step asks for some
        return -ops.mean(self.log_density(z, log_det)) + regularisation

    def sample(self, count, temperature=0.8, seed=0, label=None, source="fitted"):
        """Draw new images, by default from `styles`, a mixture fitted to codes.

        Decoded values may leave 0...255, and are clipped. Training adds noise from 0 to
        1 to each grey level. Rounding down takes it off again.

        Args:
            count: number of images.
            temperature: how widely codes are spread. The article chose 0.8 by eye. It
                changes what is drawn, never the model.
            seed: of the random numbers.
            label: draw images of this label only, such as the digit 7.
            source: "prior" draws codes from the prior, as the article does. "fitted"
                draws them from `styles`, which `fit_styles` has fitted to the codes of
                training images: better digits, but no longer the flow's own density.

        Returns:
            A uint8 array (count, *image_shape).

        Raises:
            UserError: the source or the label is unknown, or no styles are fitted.
        """
        z = self.sample_codes(count, temperature, seed, label, source)
        return np.clip(self.decode(z), 0, 255).astype("uint8")

    def sample_codes(self, count, temperature=0.8, seed=0, label=None, source="fitted"):
        """Draw the codes that `sample` decodes: a float32 array (count, D)."""
        if source == "prior":
            if label is not None:
                raise UserError("the prior knows no labels: leave out label or source")
            return self.prior.sample(count, self.size, temperature, seed)
        if source != "fitted":
            raise UserError(f"no source {source!r}: choose 'fitted' or 'prior'")
        if self.styles is None:
            raise UserError(
                "no styles are fitted to this model's codes yet: finish its training, "
                "call nice.fit_styles, or draw from the source 'prior'"
            )
        return self.styles.sample(count, temperature, seed, label)

    # For any number of images, as NumPy arrays.

    def log_likelihood(self, images, noise=None, seed=0):
        """The exact log q(x) of each image, with all its constants (eq. 6).

        Args:
            images: array (n, *image_shape), in grey levels.
            noise: width of the noise to add, in grey levels. By default it is that of
                training, as a density means something only for images like those. Use 0
                for images that the model itself has decoded and nobody has rounded.
            seed: of the noise.

        Returns:
            A float32 array (n,) of nats.

        Raises:
            UserError: the images have another shape, or are not in grey levels.
        """
        if noise is None:
            noise = self.noise
        nats = []
        for batch in self.in_batches(images, noise, seed):
            nats.append(ops.convert_to_numpy(self.log_prob(batch)))
        return np.concatenate(nats)

    def encode(self, images, noise=0.0):
        """Encode images (n, *image_shape), with noise or none: float32 codes (n, D)."""
        codes = []
        for batch in self.in_batches(images, noise):
            z, _ = self(batch)
            codes.append(ops.convert_to_numpy(z))
        return np.concatenate(codes)

    def decode(self, z):
        """Decode codes (n, D): float32 images (n, *image_shape), not clipped."""
        images = [np.empty((0, *self.image_shape), "float32")]  # if there are no codes
        for start in range(0, len(z), EVALUATION_BATCH):
            part = self.decoder(z[start : start + EVALUATION_BATCH])
            images.append(ops.convert_to_numpy(part))
        return np.concatenate(images)

    def in_batches(self, images, noise, seed=0):
        """The images, some at a time, as float32 with noise."""
        images = data.check_shape(images, self.image_shape)
        batches = Batches(images, EVALUATION_BATCH, noise, seed, shuffle=False)
        for i in range(len(batches)):
            (batch,) = batches[i]
            yield batch

    def bits_per_dimension(self, nats):
        """Bits to store one value, from an image's nats under noise one level wide."""
        return (math.log(self.levels) - nats / self.size) / math.log(2)

    @property
    def sigma(self):
        """Factors (D,) that undo the scaling of a code: sigma * z is in units of x.

        Distances of codes are measured so. In z, a pixel that holds only noise is
        stretched until it weighs as much as a stroke.
        """
        last = self.steps[-1]
        if isinstance(last, layers.DiagonalScaling):
            return last.sigma
        return np.ones(self.size)

    # What a .keras file holds.

    def get_config(self):
        return {
            "image_shape": self.image_shape,
            "steps": [keras.saving.serialize_keras_object(step) for step in self.steps],
            "prior": self.prior_name,
            "levels": self.levels,
            "noise": self.noise,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        configs = config["steps"]
        steps = [keras.saving.deserialize_keras_object(one) for one in configs]
        return cls(**{**config, "steps": steps})

    def without_optimizer(self):
        """A twin that shares the weights, and is not compiled and has no styles.

        A compiled model is saved with its optimiser, twice as large as the model.
        """
        return Flow(
            self.image_shape, self.steps, self.prior_name, self.levels, self.noise
        )

    def save_own_variables(self, store):
        """Save the styles. Keras calls this, and saves the weights by itself."""
        if self.styles is not None:
            for name, array in self.styles.arrays().items():
                store[name] = array

    def load_own_variables(self, store):
        """Load the styles, if the file has any."""
        arrays = {name: np.array(store[name]) for name in store.keys()}
        self.styles = styles.Styles(**arrays) if arrays else None


def require_float32():
    """Raise UserError unless Keras uses float32; less would spoil the inverse."""
    for setting in (keras.config.dtype_policy().name, keras.config.floatx()):
        if setting != "float32":
            raise UserError(
                f"a flow needs float32, and Keras is set to {setting}: "
                'keras.config.set_dtype_policy("float32")'
            )


def build_decoder(flow):
    """Build the decoder g = f^-1: the steps backwards, with the same weights.

    It is a Keras model, so it can be saved, exported and compiled as any other.
    """
    code = keras.Input((flow.size,), name="code")
    h = code
    for step in reversed(flow.steps):
        h = layers.Inverse(step, name=f"inverse_{step.name}")(h)
    h = keras.layers.Rescaling(flow.levels, name="grey_levels")(h)
    image = keras.layers.Reshape(flow.image_shape, name="image")(h)
    return keras.Model(code, image, name="decoder")


def build_encoder(
    image_shape,
    couplings=4,
    hidden_layers=5,
    hidden_units=1000,
    output_activation="relu",
    prior="gaussian",
    learning_rate_multiplier=4.0,
    levels=256,
    noise=1.0,
):
    """Build the article's encoder, a `Flow`: a chain of couplings, then the scaling.

    Args:
        image_shape: of one image, with an even number of values.
        couplings: how many; 0 leaves the scaling alone.
        hidden_layers, hidden_units, output_activation: see `layers.AdditiveCoupling`.
        learning_rate_multiplier: see `layers.DiagonalScaling`.
        prior, levels, noise: see `Flow`.

    Raises:
        UserError: an image has an odd number of values.
    """
    data.check_even(image_shape)
    steps = []
    for i in range(couplings):
        coupling = layers.AdditiveCoupling(
            hidden_layers, hidden_units, output_activation, name=f"coupling_{i + 1}"
        )
        steps.append(coupling)
    steps.append(layers.DiagonalScaling(learning_rate_multiplier, name="scaling"))
    return Flow(image_shape, steps, prior, levels, noise, name="encoder")


def load(path):
    """Load a model from a .keras file. No code in the file is run.

    Raises:
        UserError: there is no such file, or it holds no model of this version.
    """
    files.check_model(path)
    require_float32()  # or that error would be taken for one of the file
    unusable = f"{path}: damaged, no NICE model, or one of an earlier version"
    try:
        files.check_whole(path)
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # a damaged file fails in many ways
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{unusable} ({reason})") from None
    if not hasattr(model, "log_prob"):
        raise UserError(f"{unusable} (it is another Keras model)")
    return model


def describe_likelihood(model, images):
    """A line with the mean log-likelihood of images, and the mean's standard error."""
    # Without noise a density of grey levels means nothing: then one level is added.
    nats = model.log_likelihood(images, noise=model.noise or 1.0)
    line = f"log-likelihood of {len(nats):,} test images: {nats.mean():.2f}"
    if len(nats) > 1:
        line += f" ± {nats.std(ddof=1) / math.sqrt(len(nats)):.2f}"
    if model.noise in (0, 1):
        bits = model.bits_per_dimension(nats.mean())
        return f"{line} nats, {bits:.3f} bits per dimension"
    return f"{line} nats (noise {model.noise:g} levels wide)"


# --- Noise and batches ---------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    """Images as float32 batches for Keras, with uniform noise added ("dequantisation").

    Pixels take 256 values, and on a discrete set a density can grow without bound.
    Noise as wide as a grey level fills the gaps.

    Order and noise depend only on (seed, epoch, batch). So a resumed run is exact, and
    all backends see the same images.

    Args:
        images: array (n, *image_shape), in grey levels.
        batch_size: images in a batch.
        noise: width of the noise, in grey levels.
        seed: of order and noise.
        shuffle: True to train. Each epoch has its own order and noise, and leaves out
            the last, smaller batch: one shape to compile. False to measure: all images,
            in their order, with the same noise each time.

    Raises:
        UserError: the images are floats from 0 to 1.
    """

    def __init__(self, images, batch_size=128, noise=1.0, seed=0, shuffle=True):
        super().__init__()
        data.check_grey_levels(images)
        self.images = images
        self.batch_size = min(batch_size, len(images))
        self.noise = noise
        self.seed = seed
        self.shuffle = shuffle
        self.start_epoch(0)

    def start_epoch(self, epoch):
        """Choose the order and the noise of an epoch, counted from 0."""
        self.epoch = epoch
        self.order = np.arange(len(self.images))
        if self.shuffle:
            np.random.default_rng([self.seed, epoch]).shuffle(self.order)

    def on_epoch_end(self):
        """Go on to the next epoch. Keras calls it in a plain `fit`.

        In `train` the callback `Checkpoint` then sets the epoch, as a resumed run has
        to begin where it stopped.
        """
        if self.shuffle:
            self.start_epoch(self.epoch + 1)

    def __len__(self):
        count = len(self.images) / self.batch_size
        if self.shuffle:
            return math.floor(count)
        return math.ceil(count)

    def __getitem__(self, i):
        rows = self.order[i * self.batch_size : (i + 1) * self.batch_size]
        images = self.images[rows].astype("float32")
        # i + 1: to NumPy the seed [3, 5, 0] is [3, 5], which the order has used.
        rng = np.random.default_rng([self.seed, self.epoch, i + 1])
        u = rng.random(images.shape, "float32")
        return (images + self.noise * u,)  # Keras expects a tuple of inputs

    def feed(self):
        """This epoch's batches for `fit`; on TensorFlow a tf.data pipeline.

        It makes a batch while the one before is learned. Without it most epochs took
        1.6 times as long (benchmarks/README.md).
        """
        if keras.backend.backend() != "tensorflow":
            return self
        import tensorflow as tf

        def read(i):
            x = tf.numpy_function(lambda i: self[i][0], [i], tf.float32)
            return (tf.ensure_shape(x, (None, *self.images.shape[1:])),)

        options = tf.data.Options()
        options.autotune.enabled = False  # or many epochs take as long as without
        batches = tf.data.Dataset.range(len(self)).map(read)
        return batches.prefetch(1).with_options(options)


# --- Recipes -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A model, and how to train it. The defaults are the recipe "digits"."""

    # What `build_encoder` is called with; what is not named has its default there.
    model: dict = dataclasses.field(default_factory=dict)
    holdout: float = 1 / 6  # share of the training images that chooses the best epoch
    epochs: int = 5  # passes over the other training images
    batch_size: int = 128  # images in a step
    learning_rate: float = 1e-3  # Adam's, at first
    decay: float = 0.3  # the rate falls to 0 over this last share of the steps
    weight_decay: float = 0.0  # decoupled, on the matrices of the couplings
    seed: int = 0  # of first weights, order and noise


RECIPES = {
    "digits": Recipe(),
    # A fifth of the weights.
    "quick": Recipe(model={"hidden_layers": 3, "hidden_units": 500}),
    # As in the article: no noise, a constant rate; the test images choose the epoch.
    "article": Recipe(
        model={"levels": 255, "noise": 0.0, "learning_rate_multiplier": 1.0},
        holdout=0.0,
        epochs=20,
        decay=0.0,
    ),
    # The paper's prior, noise and m. How it is trained is ours.
    "paper": Recipe(
        model={
            "output_activation": "linear",
            "prior": "logistic",
            "learning_rate_multiplier": 10.0,
        },
        epochs=40,
        batch_size=200,
        decay=1.0,
        weight_decay=0.5,
    ),
}


# --- Training ------------------------------------------------------------------------


def train(model, batches, validation, recipe, output):
    """Train a model, going on from the output folder's backup if there is one.

    Args:
        model: a `Flow`.
        batches: `Batches` to train on.
        validation: `Batches` to choose the best epoch by.
        recipe: a `Recipe`.
        output: a folder for `nice.keras`, the best model, and what `Checkpoint` keeps.

    Returns:
        The history: a dict for each epoch, with "epoch", "loss" and "val_loss".
    """
    optimizer = make_optimizer(recipe, recipe.epochs * len(batches))
    model.compile(optimizer, jit_compile=use_xla())
    keeper = checkpoint.Checkpoint(Path(output), batches, model.without_optimizer())
    finished_epochs = keeper.restore(model)
    terminal = os.isatty(1)  # of file 1, as not every sys.stdout can be asked
    model.fit(
        batches.feed(),
        validation_data=validation,
        epochs=recipe.epochs,
        initial_epoch=finished_epochs,
        shuffle=False,  # `Batches` does
        callbacks=[keeper],
        verbose=1 if terminal else 2,  # a bar that moves, or a line an epoch
    )
    return keeper.history


def use_xla():
    """The `jit_compile` of training: XLA on TensorFlow, where Keras wants a GPU for it.

    On two cores a training step then takes three quarters of the time. JAX always uses
    XLA, and for PyTorch Keras knows best.
    """
    if keras.backend.backend() == "tensorflow":
        return True
    return "auto"


def make_optimizer(recipe, steps):
    """Adam; its rate is constant at first, and then falls to 0 along a cosine."""
    rate = recipe.learning_rate
    falling_steps = round(recipe.decay * steps)
    if falling_steps:
        # Keras's schedule has a warm-up first. From the rate to itself it is constant.
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=rate,
            warmup_target=rate,
            warmup_steps=steps - falling_steps,
            decay_steps=falling_steps,
        )
    adam = keras.optimizers.Adam(rate, weight_decay=recipe.weight_decay or None)
    adam.exclude_from_weight_decay(var_names=["bias", "log_s_over_multiplier"])
    return adam


def fit_styles(model, images, labels=None):
    """Fit `model.styles` to the codes of training images, to draw codes like theirs.

    The flow itself, and so every likelihood, stays as it is.

    Args:
        model: a trained `Flow`.
        images: array (n, *image_shape), in grey levels.
        labels: an integer for each image, (n,). Without labels, images of one label
            cannot be drawn.
    """
    images = data.check_shape(images, model.image_shape)
    labels = data.integer_labels(labels, len(images), "labels")
    chosen = styles.images_to_fit(len(images), model.size)
    with_labels = "without labels"
    if labels is not None:
        with_labels = "with labels"
        labels = labels[chosen]
    print(f"encoding {len(chosen):,} training images {with_labels}", flush=True)
    z = model.encode(images[chosen], model.noise)
    print("fitting styles to their codes, to draw codes like theirs", flush=True)
    model.styles = styles.fit(z, labels, model.sigma)


# --- The program ---------------------------------------------------------------------


@command_line.program("nice.py")
def main(argv):
    """Train, or measure; `program` fills in argv, and returns the exit status."""
    args, recipe = command_line.parse_training(argv, RECIPES)
    path = args.output / "nice.keras"
    if args.evaluate:
        return evaluate(path, args.data)

    # The images, and those among them that choose the best epoch.
    source = args.data or data.MNIST
    if args.start:
        source = args.data or files.recorded_data(args.start)
    (x_train, y_train), (x_test, _) = data.load(source)
    x_fit, y_fit, x_held = data.hold_back(x_train, y_train, recipe.holdout)
    test_images_choose = len(x_held) == 0
    x_validation = x_test if test_images_choose else x_held

    # The model, its batches, and a folder for the run.
    first_batch = min(recipe.batch_size, len(x_fit))
    last_batch = len(x_validation) % EVALUATION_BATCH
    # On JAX, if the number of devices divides each of these. Then models are built.
    devices.use_all(first_batch, EVALUATION_BATCH, last_batch)
    keras.utils.set_random_seed(recipe.seed)
    if args.start:
        model = load(args.start)
    else:
        model = build_encoder(x_fit.shape[1:], **recipe.model)
    data.check_shape(x_fit, model.image_shape)
    batches = Batches(x_fit, recipe.batch_size, model.noise, recipe.seed)
    validation = Batches(x_validation, EVALUATION_BATCH, model.noise, shuffle=False)
    settings = {
        **dataclasses.asdict(recipe),
        "data": str(Path(source).resolve()),
        "start": str(args.start.resolve()) if args.start else None,
        "fingerprint": data.fingerprint(x_fit, x_held, x_test),
    }
    files.claim(args.output, settings, args.fresh)

    parameters = f"{model.count_params():,} parameters"
    print(f"{parameters}, {len(x_fit):,} images, {devices.describe()}")
    print("Ctrl-C stops; the same command, without --fresh, goes on")
    history = train(model, batches, validation, recipe, args.output)
    best = checkpoint.best_epoch(history)
    if best is not None:
        print(f"best epoch: {best['epoch']}, with a loss of {best['val_loss']:.2f}")
        model = load(path)  # its weights are those of the best epoch, not of the last
        fit_styles(model, x_fit, y_fit)
        files.write_whole(path, model.save)
    checkpoint.finish(args.output, history)
    if best is not None and not test_images_choose:
        print("measuring the test images", flush=True)
        print(describe_likelihood(model, x_test))

    if best is None or not math.isfinite(history[-1]["loss"]):
        kept = f"its best model is {path}"
        if best is None:
            kept = "there is no model of it"
        error = f"nice.py: training diverged: lower --learning-rate; {kept}"
        print(error, file=sys.stderr)
        return 1
    print(f"next: python sample.py --model {path}")
    return 0


def evaluate(path, source):
    """Print the likelihood of the test images under a trained model."""
    model = load(path)
    source = source or files.recorded_data(path)
    _, (x_test, _) = data.load(source)
    print(f"{source}, {devices.describe()}: {describe_likelihood(model, x_test)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
