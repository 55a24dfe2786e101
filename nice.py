"""Train NICE, a normalising flow, on MNIST:  python nice.py

NICE (Dinh, Krueger, Bengio, arXiv 1410.8516) learns an invertible map f from images x
to codes z that follow a simple density, the prior. The change of variables gives the
exact density of an image,

    log q(x) = log prior(f(x)) + log |det df/dx|     (eq. 6).

Training maximises it. Run backwards, f turns random codes into new images. Equation
numbers are those of docs/lesson.md, and so is what "the article" means.
"""

# `support` comes first: it sets up the backends before Keras starts them.
from support import backends, checkpoint, command_line, data, devices, files, mixture
from support.errors import UserError

import layers

import dataclasses
import math
import shlex
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

    Who adds noise to images, unless told otherwise:

        `Batches`               one grey level
        `log_likelihood`        `noise`, that of training
        `describe_likelihood`   the same, or one grey level if that is 0
        `encode`                none
        `log_prob`, `score`     none: they take one batch, as it is

    Args:
        image_shape: of one image, such as (28, 28) or (32, 32, 3).
        steps: a list of `layers.FlowLayer`, in the encoder's order.
        prior: a name in `layers.PRIORS`.
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
        x = keras.layers.Reshape((size,), name="flatten")(image)
        x = keras.layers.Rescaling(1 / levels, name="units")(x)
        values, log_det = layers.chain(steps, x)
        z = values[-1]
        super().__init__(image, [z, log_det], **kwargs)
        self.image_shape = tuple(image_shape)
        self.size = size
        self.steps = steps
        self.prior_name = prior
        self.prior = layers.PRIORS[prior]()
        self.levels = levels
        self.noise = noise
        self.mixture = None  # of the codes of training images: see `fit_mixture`
        self.decoder = build_decoder(self)

    # Density, loss and sampling.

    def log_density(self, z, log_det):
        """log q(x) of images with these codes and log-determinants, in nats (eq. 6)."""
        return self.prior.log_prob(z) + log_det

    def log_prob(self, images):
        """log q(x) of a batch of images as they are: a tensor (batch,), nats."""
        z, log_det = self(images)
        return self.log_density(z, log_det)

    def score(self, images):
        """The gradient of log q(x) with respect to a batch of images, as they are.

        Returns:
            A tensor of the shape of the images, in nats per grey level.
        """
        return backends.gradient(self.log_prob, images)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The loss that `fit` minimises: the mean of -log q(x), in nats.

        `sample_weight` (batch,) multiplies the terms of that mean. If a step has a
        regulariser, that is added. So it is in what `evaluate` returns and in
        `val_loss`, which chooses the best epoch, and not in `log_likelihood`.
        """
        z, log_det = y_pred
        nats = self.log_density(z, log_det)
        if sample_weight is not None:
            nats = nats * sample_weight
        regularisation = sum(self.losses)  # 0, unless a step asks for some
        return -ops.mean(nats) + regularisation

    def sample(self, count, temperature=1.0, seed=0, label=None, source=None):
        """Draw new images. By default they follow the density that `log_prob` gives.

        Args:
            count: number of images.
            temperature: how widely codes are spread; 1 is the density itself. The
                article draws pictures at `pictures.TEMPERATURE`, 0.8.
            seed: of the random numbers.
            label: draw images of this label only, such as the digit 7, from the
                mixture.
            source: where codes are drawn from. "prior", the default without a label, is
                the flow. "mixture", the default with one, is what `fit_mixture` has
                fitted to the codes of training images: better digits, and another
                density.

        Returns:
            A uint8 array (count, *image_shape).

        Raises:
            UserError: the source or the label is unknown, or no mixture is fitted.
        """
        z = self.sample_codes(count, temperature, seed, label, source)
        return to_pixels(self.decode(z), self.noise)

    def sample_codes(self, count, temperature=1.0, seed=0, label=None, source=None):
        """Draw the codes that `sample` decodes: a float32 array (count, D)."""
        if source is None:
            source = "prior" if label is None else "mixture"
        if source == "prior":
            if label is not None:
                raise UserError("the prior knows no labels: leave out label or source")
            return self.prior.sample(count, self.size, temperature, seed)
        if source != "mixture":
            raise UserError(f"no source {source!r}: choose 'prior' or 'mixture'")
        if self.mixture is None:
            raise UserError(
                "no mixture is fitted to this model's codes: finish its training, call "
                "nice.fit_mixture, or draw from the prior"
            )
        return self.mixture.sample(count, temperature, seed, label)

    # Training.

    def fit(self, x=None, y=None, **options):
        """Train as any Keras model does. Only this is different:

        `Batches` get a new order and new noise in each epoch, and on TensorFlow they
        are made while the batch before is learned. Weights of samples count without a
        `y`, too. The mixture is dropped, as it was fitted to other weights' codes.

        Args: those of `keras.Model.fit`, all but x and y by their names.
        """
        self.mixture = None
        if y is None:
            y = options.get("sample_weight")  # Keras ignores weights if there is no y
        if isinstance(x, Batches):
            callbacks = options.get("callbacks") or []
            options["callbacks"] = [StartEpoch(x), *callbacks]
            options["shuffle"] = False  # `Batches` does
            x = backends.prefetch(x)
        return super().fit(x, y, **options)

    # For any number of images, as NumPy arrays.

    def log_likelihood(self, images, noise=None, seed=0, verbose=0):
        """The exact log q(x) of each image, with all its constants (eq. 6).

        Args:
            images: array (n, *image_shape), in grey levels.
            noise: width of the noise to add, in grey levels. By default it is that of
                training, as a density means something only for images like those. Use 0
                for images that the model itself has decoded and nobody has rounded.
            seed: of the noise.
            verbose: 1 for a bar.

        Returns:
            A float32 array (n,) of nats.

        Raises:
            UserError: the images have another shape, or are not in grey levels.
        """
        if noise is None:
            noise = self.noise
        nats = []
        for z, log_det in self.encode_batches(images, noise, seed, verbose):
            nats.append(ops.convert_to_numpy(self.log_density(z, log_det)))
        return np.concatenate(nats)

    def encode(self, images, noise=0.0, seed=0, verbose=0):
        """Encode images (n, *image_shape), with noise or none: float32 codes (n, D)."""
        codes = []
        for z, _ in self.encode_batches(images, noise, seed, verbose):
            codes.append(ops.convert_to_numpy(z))
        return np.concatenate(codes)

    def encode_batches(self, images, noise, seed, verbose):
        """Encode the images some at a time: z and log |det| of each batch, tensors."""
        images = data.check_images(images, self.image_shape)
        batches = Batches(images, EVALUATION_BATCH, noise, seed, shuffle=False)
        call = backends.compiled(self, calls=len(batches))
        bar = keras.utils.Progbar(len(batches), verbose=verbose)
        for i in range(len(batches)):
            (batch,) = batches[i]
            yield call(batch)
            bar.add(1)

    def decode(self, z):
        """Decode codes (..., D): float32 images (..., *image_shape), not clipped."""
        z = np.asarray(z, "float32")
        if z.shape[-1:] != (self.size,):
            raise UserError(f"codes have {self.size} values each, not shape {z.shape}")
        rows = z.reshape(-1, self.size)
        images = [np.empty((0, *self.image_shape), "float32")]  # if there are no codes
        for start in range(0, len(rows), EVALUATION_BATCH):
            part = self.decoder(rows[start : start + EVALUATION_BATCH])
            images.append(ops.convert_to_numpy(part))
        return np.concatenate(images).reshape(*z.shape[:-1], *self.image_shape)

    def bits_per_dimension(self, nats):
        """Bits to store one value, from an image's nats under noise one level wide."""
        return (math.log(self.levels) - nats / self.size) / math.log(2)

    @property
    def sigma(self):
        """Factors (D,) that undo the scaling of a code, if that is the last step.

        Distances of codes are measured in sigma * z. That is in units of x if no step
        before changes them. In z, a pixel that holds only noise is stretched until it
        weighs as much as a stroke.
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
        """A twin that shares the weights, and is not compiled and has no mixture.

        A compiled model is saved with its optimiser, twice as large as the model.
        """
        return type(self)(**{**self.get_config(), "steps": self.steps})

    def save_own_variables(self, store):
        """Save the mixture. Keras calls this, and saves the weights by itself."""
        if self.mixture is not None:
            for name, array in self.mixture.arrays().items():
                store[name] = array

    def load_own_variables(self, store):
        """Load the mixture, if the file has one."""
        arrays = {name: np.array(store[name]) for name in store.keys()}
        self.mixture = mixture.Mixture(**arrays) if arrays else None


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
    inverses = [
        layers.Inverse(step, name=f"inverse_{step.name}") for step in flow.steps[::-1]
    ]
    code = keras.Input((flow.size,), name="code")
    values, _ = layers.chain(inverses, code)
    image = keras.layers.Rescaling(flow.levels, name="grey_levels")(values[-1])
    image = keras.layers.Reshape(flow.image_shape, name="image")(image)
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
        image_shape: of one image, with an even number of values if there are couplings.
        couplings: how many; 0 leaves only the scaling.
        hidden_layers, hidden_units, output_activation: see `layers.Coupling`.
        learning_rate_multiplier: see `layers.DiagonalScaling`.
        prior, levels, noise: see `Flow`.

    Raises:
        UserError: an image has an odd number of values.
    """
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
        UserError: there is no such file, it holds no model of this version, or it
            holds a class that nothing has defined yet.
    """
    files.check_model(path)
    require_float32()  # or that error would be taken for one of the file
    unusable = f"{path}: damaged, no NICE model, or one of an earlier version"
    try:
        files.check_whole(path)
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # a damaged file fails in many ways
        files.check_classes(path, error)
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{unusable} ({reason})") from None
    if not hasattr(model, "log_prob"):
        raise UserError(f"{unusable} (it is another Keras model)")
    return model


def describe_likelihood(model, images):
    """A line with the mean log-likelihood of images, and the mean's standard error."""
    # Without noise a density of grey levels means nothing: then one level is added.
    noise = model.noise or 1.0
    nats = model.log_likelihood(images, noise, verbose=command_line.verbose())
    line = f"log-likelihood of {len(nats):,} test images: {nats.mean():.2f}"
    if len(nats) > 1:
        line += f" ± {nats.std(ddof=1) / math.sqrt(len(nats)):.2f}"
    if noise == 1:
        bits = model.bits_per_dimension(nats.mean())
        return f"{line} nats, {bits:.3f} bits per dimension"
    return f"{line} nats (noise {noise:g} levels wide)"


# --- Noise and batches ---------------------------------------------------------------


def add_noise(images, noise, rng):
    """Add uniform noise to images in grey levels ("dequantisation").

    Pixels take 256 values, and on a discrete set a density can grow without bound.
    Noise as wide as a grey level fills the gaps.

    Args:
        images: array (n, *image_shape), in grey levels.
        noise: width of the noise, in grey levels: each value moves up by 0 to `noise`.
        rng: a NumPy generator.

    Returns:
        A float32 array of the same shape.
    """
    u = rng.random(images.shape, "float32")
    return images.astype("float32") + noise * u


def to_pixels(values, noise):
    """Round values to grey levels, and take off what the noise added on average."""
    return np.clip(np.round(values - noise / 2), 0, 255).astype("uint8")


class Batches(keras.utils.PyDataset):
    """Images as float32 batches for Keras, with noise added by `add_noise`.

    Order and noise depend only on (seed, epoch, batch). So a resumed run is exact, and
    all backends see the same images. `Flow.fit` says which epoch it is. Elsewhere call
    `start_epoch`, or all epochs are alike.

    Args:
        images: array or list (n, *image_shape), in grey levels.
        batch_size: images in a batch.
        noise: width of the noise, in grey levels. It does not come from the model: for
            one of other noise pass `model.noise`.
        seed: of order and noise.
        shuffle: True to train. Each epoch has its own order and noise, and leaves out
            the last, smaller batch: one shape to compile. False to measure: all images,
            in their order, with the same noise each time.

    Raises:
        UserError: the images are not in grey levels. Those to train on are checked as
            strictly as a file, by `data.check_training_images`.
    """

    def __init__(self, images, batch_size=128, noise=1.0, seed=0, shuffle=True):
        super().__init__()
        images = np.asarray(images)
        if shuffle:
            data.check_training_images(images, "images")
        else:
            data.check_grey_levels(images)
        self.images = images
        self.batch_size = min(batch_size, len(images))
        self.noise = noise
        self.seed = seed
        self.shuffle = shuffle
        self.start_epoch(0)

    def start_epoch(self, epoch):
        """Choose the order and the noise of an epoch, counted from 0."""
        self.epoch = 0
        self.order = np.arange(len(self.images))
        if self.shuffle:
            self.epoch = epoch
            np.random.default_rng([self.seed, epoch]).shuffle(self.order)

    def __len__(self):
        count = len(self.images) / self.batch_size
        if self.shuffle:
            return math.floor(count)
        return math.ceil(count)

    def __getitem__(self, i):
        rows = self.order[i * self.batch_size : (i + 1) * self.batch_size]
        # Batches count from 1 here: to NumPy [3, 5, 0] is [3, 5], the order's seed.
        rng = np.random.default_rng([self.seed, self.epoch, i + 1])
        images = add_noise(self.images[rows], self.noise, rng)
        return (images,)  # Keras expects a tuple of inputs


class StartEpoch(keras.callbacks.Callback):
    """Tell `Batches` which epoch begins. `Flow.fit` adds it."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.start_epoch(epoch)


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
    cooldown: float = 0.3  # the rate falls to 0 over this last share of the steps
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
        cooldown=0.0,
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
        cooldown=1.0,
        weight_decay=0.5,
    ),
}


# --- Training ------------------------------------------------------------------------


def train(model, batches, validation, recipe, output, fresh=False, **origin):
    """Train a model, in a folder for this run alone. A stopped run goes on.

    The folder holds

        settings.json       the recipe, a checksum of the images, and `origin`
        nice.keras          the model of the best epoch so far, without Adam's averages
        backup.0007.keras   the model after the last epoch, 7, with them
        history.json        the losses of all epochs
        samples/            a grid of draws from the prior after each epoch

    Settings are written first, the others after each epoch. To go on is to load backup
    and history. The model in memory is then that of the last epoch; `nice.load` opens
    that of the best one.

    Args:
        model: a `Flow`.
        batches: `Batches` to train on.
        validation: `Batches` to choose the best epoch by.
        recipe: a `Recipe`.
        output: the folder.
        fresh: start over if the folder holds a run. Its model becomes
            nice.previous.keras, its other files are deleted.
        origin: what else to record, by names.

    Returns:
        The history: a dict for each epoch, with "epoch", "loss" and "val_loss".

    Raises:
        UserError: the folder holds a finished run, or one of other settings or images.
    """
    settings = {
        **dataclasses.asdict(recipe),
        **origin,
        "images": data.fingerprint(batches.images, validation.images),
    }
    output = Path(output)
    files.claim(output, settings, fresh)
    optimizer = make_optimizer(model, recipe, recipe.epochs * len(batches))
    model.compile(optimizer, jit_compile=backends.use_xla())
    keeper = checkpoint.Checkpoint(output, model.without_optimizer())
    finished_epochs = keeper.restore(model)
    model.fit(
        batches,
        validation_data=validation,
        epochs=recipe.epochs,
        initial_epoch=finished_epochs,
        callbacks=[keeper],
        verbose=command_line.verbose(elsewhere=2),  # a bar, or a line an epoch
    )
    return keeper.history


def make_optimizer(model, recipe, steps):
    """Adam; its rate is constant at first, and then falls to 0 along a cosine."""
    rate = recipe.learning_rate
    falling_steps = round(recipe.cooldown * steps)
    if falling_steps:
        # Keras's schedule has a warm-up first. From the rate to itself it is constant.
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=rate,
            warmup_target=rate,
            warmup_steps=steps - falling_steps,
            decay_steps=falling_steps,
        )
    adam = keras.optimizers.Adam(rate, weight_decay=recipe.weight_decay or None)
    # Only matrices decay. A bias or log s may be as large as it needs to be.
    vectors = [weight for weight in model.trainable_weights if len(weight.shape) < 2]
    adam.exclude_from_weight_decay(var_list=vectors)
    return adam


def fit_mixture(model, images, labels=None):
    """Fit `model.mixture` to the codes of training images, to draw codes like theirs.

    The flow itself, and so every likelihood, stays as it is. If its weights change
    later, fit again. (`Flow.fit` drops the mixture, `set_weights` does not.)

    Args:
        model: a trained `Flow`.
        images: array (n, *image_shape), in grey levels.
        labels: an integer for each image, (n,). Without labels, images of one label
            cannot be drawn.

    Raises:
        UserError: the images are not such as the model is trained on.
    """
    images = data.check_images(images, model.image_shape)
    data.check_training_images(images, "images")
    labels = data.integer_labels(labels, len(images), "labels")
    chosen = mixture.images_to_fit(len(images), model.size, labels)
    with_labels = "without labels"
    if labels is not None:
        with_labels = "with labels"
        labels = labels[chosen]
    print(f"encoding {len(chosen):,} training images {with_labels}", flush=True)
    z = model.encode(images[chosen], model.noise, verbose=command_line.verbose())
    print("fitting a mixture to their codes, to draw codes like theirs", flush=True)
    model.mixture = mixture.fit(z, labels, model.sigma)


# --- The program ---------------------------------------------------------------------


@command_line.program("nice.py")
def main(argv):
    """Train, or measure; `program` fills in argv, and returns the exit status."""
    args, recipe = command_line.parse_training(
        argv, RECIPES, build_encoder, priors=list(layers.PRIORS)
    )
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

    # The model and its batches.
    first_batch = min(recipe.batch_size, len(x_fit))
    last_batch = len(x_validation) % EVALUATION_BATCH
    # On JAX, if the number of devices divides each of these. Then models are built.
    devices.use_all(first_batch, EVALUATION_BATCH, last_batch)
    keras.utils.set_random_seed(recipe.seed)
    if args.start:
        model = load(args.start)
    else:
        model = build_encoder(x_fit.shape[1:], **recipe.model)
    data.check_images(x_fit, model.image_shape)
    batches = Batches(x_fit, recipe.batch_size, model.noise, recipe.seed)
    validation = Batches(x_validation, EVALUATION_BATCH, model.noise, shuffle=False)
    parameters = f"{model.count_params():,} parameters"
    print(f"{parameters}, {len(x_fit):,} images, {devices.describe()}")
    print("Ctrl-C stops; the same command, without --fresh, then goes on")

    origin = {"data": files.record(source), "start": files.checksum(args.start)}
    history = train(
        model, batches, validation, recipe, args.output, args.fresh, **origin
    )
    best = checkpoint.best_epoch(history)
    if best is None or not math.isfinite(history[-1]["loss"]):
        checkpoint.finish(args.output, history)
        kept = f"its best model is {path}"
        if best is None:
            kept = "there is no model of it"
        error = f"nice.py: training diverged: lower --learning-rate; {kept}"
        print(error, file=sys.stderr)
        return 1

    print(f"best epoch: {best['epoch']}, with a loss of {best['val_loss']:.2f}")
    model = load(path)  # its weights are those of the best epoch, not of the last
    fit_mixture(model, x_fit, y_fit)
    files.write_whole(path, model.save)
    checkpoint.finish(args.output, history)
    if not test_images_choose:
        print("measuring the test images", flush=True)
        print(describe_likelihood(model, x_test))
    print(f"next: python sample.py --model {shlex.quote(str(path))}")
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
