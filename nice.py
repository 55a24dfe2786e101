"""Train NICE, a normalising flow, on MNIST:  python nice.py

NICE (Dinh, Krueger, Bengio, arXiv 1410.8516) learns an invertible map f from images x to codes
z that follow a simple density, the prior. Change of variables then gives the exact density of
every image (eq. 6),

    log q(x) = log prior(f(x)) + log |det df/dx|,

which training maximises, and f backwards turns random codes into new images. The file follows
that order: settings, model, objective, data, training. Equation numbers are the README's.
"""

import argparse
import csv
import functools
import json
import math
import os
import random
import signal
import sqlite3
import sys
import zipfile
import zlib
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # before training, Ctrl-C simply ends the program

# TensorFlow talks on stderr whatever its log level, at its import and at its first operation;
# we keep stderr for what concerns the user.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
stderr = os.dup(2)
try:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    import keras

    keras.ops.zeros(())
finally:
    os.dup2(stderr, 2)
if keras.backend.backend() != "tensorflow":
    # Keras would import it just to save a model, which takes seconds.
    sys.modules.setdefault("tensorflow", None)

from keras import ops

from layers import AdditiveCoupling, DiagonalScaling, Inverse, UniformNoise

# --- Settings --------------------------------------------------------------------------------

# A recipe is a column. "article" is the literal one; "paper" is the experiment of the original
# paper; "fast", the default, is the article's model with what we found to train it better.
RECIPE_NAMES = ("article", "fast", "paper")
RECIPES = {
    "noise": (0.0, 0.01, 1 / 256),  # width of the noise on training images, see GREY_LEVEL
    "prior": ("gaussian", "gaussian", "logistic"),  # density of the codes
    "output_activation": ("relu", "relu", "linear"),  # last layer of the couplings' networks
    "couplings": (4, 4, 4),
    "hidden_layers": (5, 5, 5),  # in each coupling's network
    "hidden_units": (1000, 1000, 1000),  # in each hidden layer
    "scale_from_data": (False, True, True),  # start log s where the data wants it
    "scale_factor": (1.0, 10.0, 10.0),  # how much faster log s learns than the other weights
    "output_gain": (1.0, 1.0, 0.01),  # how large the couplings' last layers start
    "holdout": (0, 0, 10000),  # training images kept back to choose the model; 0: the test images
    "epochs": (20, 10, 40),
    "batch_size": (128, 128, 200),
    "learning_rate": (1e-3, 1e-3, 1e-3),  # Adam's, or its peak where there is a warm-up
    "warmup": (0, 300, 300),  # steps of rising rate before a cosine decay to 0; 0: constant rate
    "weight_decay": (0.0, 0.5, 0.5),  # decoupled, on the couplings' matrices
    "seed": (0, 0, 0),
}
GREY_LEVEL = 1 / 256  # noise of just this width dequantises: x = (pixel + u) / 256, as in the paper
DATA = Path(__file__).parent / "data" / "mnist.npz"
KERAS_DATA_SETS = ("mnist", "fashion_mnist", "cifar10", "cifar100")

# --- Model -----------------------------------------------------------------------------------


def build_encoder(
    image_shape,
    couplings=4,
    hidden_layers=5,
    hidden_units=1000,
    output_activation="relu",
    output_gain=1.0,
    noise=0.0,
    prior="gaussian",
    scale_factor=1.0,
):
    """Build the encoder f: image -> code, a chain of couplings closed by the scaling.

    Args:
        image_shape: shape of one image, such as (28, 28) or (32, 32, 3); its number of values
            D must be even.
        couplings: number of additive couplings, at least 1. Log-determinants add up along the
            chain, and each of these is 0 (eqs. 10-12).
        hidden_layers, hidden_units, output_activation, output_gain: the network in each
            coupling.
        noise: width of the uniform noise subtracted from training images.
        prior: "gaussian" or "logistic", the density the codes are trained to follow.
        scale_factor: how much faster log s learns than the other weights.

    Returns:
        A `keras.Model` from (batch, *image_shape), values in [0, 1], to (batch, D).

    Raises:
        ValueError: a size below 1, an odd D, a negative noise or an unknown prior.
    """
    if couplings < 1:
        raise ValueError(f"couplings must be at least 1, got {couplings}")
    if prior not in PRIORS:
        raise ValueError(f"prior must be one of {', '.join(PRIORS)}, got {prior!r}")
    image = keras.Input(image_shape)
    h = keras.layers.Flatten()(image)
    h = UniformNoise(noise)(h)
    for _ in range(couplings):
        h = AdditiveCoupling(hidden_layers, hidden_units, output_activation, output_gain)(h)
    return keras.Model(image, DiagonalScaling(prior, scale_factor)(h), name="encoder")


def build_decoder(encoder):
    """Build the decoder g = f^-1: code -> image, by walking the encoder's layers backwards.

    It reads the encoder's weights and has none of its own, so it follows the encoder through
    training. The encoder may also come from a file (`keras.saving.load_model`).

    Returns:
        A `keras.Model` from (batch, D) to (batch, *image_shape).

    Raises:
        ValueError: the model is not a NICE encoder.
    """
    if not isinstance(getattr(encoder, "layers", [None])[-1], DiagonalScaling):
        raise ValueError("the model is not a NICE encoder: it does not end in a DiagonalScaling")
    code = keras.Input(encoder.output_shape[1:])
    h = code
    for layer in reversed(encoder.layers[2:]):  # all but the input and the flattening
        h = Inverse(layer)(h)
    return keras.Model(code, keras.layers.Reshape(encoder.input_shape[1:])(h), name="decoder")


# --- Objective -------------------------------------------------------------------------------
# A prior is two functions: its negative log density, which is the loss, and a sampler. The rest
# of the objective, -sum(log s), is added by the scaling layer. Keras hands a loss the targets
# too; a flow has none.


@keras.saving.register_keras_serializable("nice")
def gaussian_loss(_, z):
    """Negative log of the standard normal, without its (D/2) log 2 pi (eq. 15). Nats, (batch,)."""
    return 0.5 * ops.sum(ops.square(z), axis=-1)


@keras.saving.register_keras_serializable("nice")
def logistic_loss(_, z):
    """Negative log of the standard logistic density (paper, section 3.4). Nats, (batch,)."""
    return ops.sum(ops.softplus(z) + ops.softplus(-z), axis=-1)


PRIORS = {
    "gaussian": (gaussian_loss, lambda rng, shape: rng.normal(size=shape)),
    "logistic": (logistic_loss, lambda rng, shape: rng.logistic(size=shape)),
}


def draw_codes(prior, count, dimensions, temperature, seed):
    """Draw (count, dimensions) float32 codes from the prior, made narrower by the temperature."""
    codes = PRIORS[prior][1](np.random.default_rng(seed), (count, dimensions))
    return (temperature * codes).astype("float32")


def constant(prior, dimensions):
    """The nats per image that the loss leaves out: (D/2) log 2 pi for the Gaussian."""
    return dimensions / 2 * math.log(2 * math.pi) if prior == "gaussian" else 0.0


def log_likelihood(encoder, images):
    """The exact log q(x) of each image with all its constants (eq. 6), in nats, (batch,)."""
    z, scaling = encoder.predict(images, batch_size=1000, verbose=0), encoder.layers[-1]
    loss = ops.convert_to_numpy(PRIORS[scaling.prior][0](None, z))
    log_determinant = ops.convert_to_numpy(scaling.log_scale).sum()
    return log_determinant - loss - constant(scaling.prior, z.shape[1])


def bits_per_dimension(nats, dimensions):
    """Bits to store one pixel exactly, from the log-likelihood of (pixel + u) / 256 in nats."""
    return -(nats / dimensions + math.log(GREY_LEVEL)) / math.log(2)


def add_noise(images, width, seed):
    """Add a draw of the training noise to images in [0, 1], as evaluation under it needs."""
    u = np.random.default_rng(seed).random(images.shape, dtype="float32")
    return (255 * images + u) / 256 if width == GREY_LEVEL else images - width * u


# --- Data ------------------------------------------------------------------------------------


def load_images(data=DATA):
    """Load training and test images as float32 in [0, 1], and the test images' labels.

    Args:
        data: path of an .npz file with Keras's keys `x_train` and `x_test`, each of shape
            (images, height, width) or (images, height, width, channels), integers in 0..255
            or floats in [0, 1], and perhaps `y_test`; or the name of a Keras data set, which
            Keras downloads.

    Returns:
        x_train, x_test, and y_test or None.

    Raises:
        ValueError: the file is missing, damaged, or does not hold such images.
    """
    if str(data) in KERAS_DATA_SETS:
        try:
            (x_train, _), (x_test, y_test) = getattr(keras.datasets, str(data)).load_data()
        except Exception as error:  # Keras raises a bare Exception
            raise ValueError(f"{data}: Keras cannot download it: {first_line(error)}") from None
        arrays = {"x_train": x_train, "x_test": x_test, "y_test": y_test}
    else:
        try:
            check_zip(data)
            with np.load(data, allow_pickle=False) as file:
                arrays = dict(file)
        except FileNotFoundError:
            names = ", ".join(KERAS_DATA_SETS)
            raise ValueError(f"{data}: no such file, nor one of Keras's {names}") from None
        except Exception as error:  # a damaged file fails in zipfile's or NumPy's many ways
            raise ValueError(f"{data}: not a readable .npz file: {first_line(error)}") from None
    images = []
    for key in ("x_train", "x_test"):
        if key not in arrays:
            raise ValueError(f"{data}: has no {key}; expected arrays x_train and x_test")
        images.append(to_unit_interval(arrays[key], f"{data}: {key}"))
    if images[0].shape[1:] != images[1].shape[1:]:
        shapes = " and ".join(str(x.shape[1:]) for x in images)
        raise ValueError(f"{data}: training and test images differ in shape: {shapes}")
    labels = arrays.get("y_test")
    if labels is not None and labels.shape[:1] != images[1].shape[:1]:
        raise ValueError(f"{data}: y_test of shape {labels.shape} for {len(images[1])} images")
    return *images, labels


def to_unit_interval(images, name):
    """Check an array of images and return it as float32 in [0, 1]."""
    if images.dtype.kind not in "uif":
        raise ValueError(f"{name} holds {images.dtype}, not pixel values")
    if images.ndim not in (3, 4) or images.size == 0:
        raise ValueError(f"{name} holds no images: its shape is {images.shape}")
    top = 1 if images.dtype.kind == "f" else 255
    if not (images.min() >= 0 and images.max() <= top):  # also where there is a NaN
        raise ValueError(f"{name} has values outside 0..{top} ({images.dtype})")
    return (images / np.float32(top)).astype("float32")


def check_zip(path):
    """Read a zip file, as .npz and .keras files are, once against its checksums."""
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
    if damaged:
        raise ValueError(f"its part {damaged} is damaged")


def load_encoder(path):
    """Load an encoder from a .keras file, without running any code that the file may carry.

    Raises:
        ValueError: the file is missing, damaged, or not a NICE encoder.
    """
    try:
        check_zip(path)
        encoder = keras.saving.load_model(path, compile=False, safe_mode=True)
        build_decoder(encoder)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such model; train one with: python nice.py") from None
    except Exception as error:  # a damaged file fails in zipfile's, h5py's or Keras's many ways
        raise ValueError(f"{path}: not a usable NICE model: {first_line(error)}") from None
    return encoder


def check_shape(encoder, images):
    if images.shape[1:] != encoder.input_shape[1:]:
        raise ValueError(
            f"the data's images have shape {images.shape[1:]}, the model was trained on "
            f"{encoder.input_shape[1:]}: choose its --data"
        )


def first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- Training --------------------------------------------------------------------------------


def split(x_train, x_test, settings):
    """Choose the images that train and those that choose the model, and dequantise for the paper.

    Raises:
        ValueError: there are too few training images to hold some back.
    """
    holdout = settings["holdout"]
    if holdout >= len(x_train):
        raise ValueError(f"this recipe holds back {holdout} training images of {len(x_train)}")
    x_train, x_valid = np.split(x_train, [-holdout]) if holdout else (x_train, x_test)
    if settings["noise"] == GREY_LEVEL:
        # The noise layer subtracts, so training images are the upper edges: (pixel + 1 - u) / 256.
        x_train, x_valid = (255 * x_train + 1) / 256, add_noise(x_valid, GREY_LEVEL, seed=0)
    return x_train, x_valid


def scale_from_data(encoder, images):
    """Start s at what gives the untrained encoder's codes the standard deviation of the prior.

    Most pixels hardly vary, so their s has far to go, and Adam moves log s by one learning
    rate a step. The floor is for pixels that do not vary at all, which without noise have no
    best s.
    """
    noise, scaling = encoder.layers[2], encoder.layers[-1]
    couplings = keras.Model(encoder.input, scaling.input)
    x = np.resize(images, (10000, *images.shape[1:]))  # the first images, repeated if too few
    u = np.random.default_rng(0).random(x.shape, dtype="float32")
    deviation = couplings.predict(x - noise.width * u, batch_size=1000, verbose=0).std(axis=0)
    wanted = {"gaussian": 1.0, "logistic": math.pi / math.sqrt(3)}[scaling.prior]
    scaling.weight.assign(np.log(wanted / np.maximum(deviation, 1e-3)) / scaling.factor)


def compile_encoder(encoder, settings, steps_per_epoch):
    """Attach the prior's loss, and Adam with the recipe's learning-rate schedule."""
    rate, steps = settings["learning_rate"], settings["epochs"] * steps_per_epoch
    if settings["warmup"]:
        warmup = min(settings["warmup"], steps // 2)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps - warmup, warmup_target=rate, warmup_steps=warmup
        )
    adam = keras.optimizers.Adam(rate, weight_decay=settings["weight_decay"] or None)
    adam.exclude_from_weight_decay(var_names=["log_scale", "bias"])
    encoder.compile(adam, loss=PRIORS[settings["prior"]][0])


def use_all_devices(*sizes):
    """Train data-parallel if there are several devices, where Keras can: on JAX.

    Args:
        sizes: how many images batches have; each is dealt out evenly.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        devices = range(torch.cuda.device_count())
    else:
        devices = keras.distribution.list_devices()
    if len(devices) < 2:
        return
    if backend != "jax":
        print(f"training on 1 of {len(devices)} devices: KERAS_BACKEND=jax uses all")
        return
    used = math.gcd(len(devices), *sizes)
    if used > 1:
        parallel = keras.distribution.DataParallel(devices=devices[:used])
        keras.distribution.set_distribution(parallel)
    print(f"training on {used} of {len(devices)} devices, as many as divide every batch evenly")


def batches(images, batch_size):
    """Say in arguments of `fit`: these images, in this order, in batches.

    On TensorFlow, `fit` makes a tf.data pipeline of bare arrays, which tunes itself as it runs,
    and often the end of an epoch has to wait for the tuner. So there we make one, untuned.
    """
    targets = np.zeros(len(images))  # fit asks for them, a flow has none
    if keras.backend.backend() != "tensorflow":
        return {"x": images, "y": targets, "batch_size": batch_size}
    from tensorflow import data

    options = data.Options()
    options.autotune.enabled = False
    pipeline = data.Dataset.from_tensor_slices((images, targets)).batch(batch_size)
    return {"x": pipeline.prefetch(1).with_options(options)}


def train(encoder, x_train, x_test, settings, output, signals=()):
    """Train the encoder, going on from `output/backup.keras` if that is there.

    After each epoch it writes the best model so far (`nice.keras`), a grid of images decoded
    from one fixed set of codes (`samples/`), a row of `history.csv`, and last the backup with
    the optimiser's state, from which the same call goes on after an interruption. At the end
    the grids become `training.gif`, whose presence marks a finished run.

    Args:
        encoder: a compiled encoder.
        x_train, x_test: arrays of images; the loss on x_test chooses the best model.
        settings: a dict with `epochs`, `batch_size`, `noise`, `prior` and `seed`. With noise of
            one GREY_LEVEL the history has the log-likelihood too, for x_test dequantised.
        output: a folder that has a folder `samples`.
        signals: training stops after the step in which a number appears in this list.

    Returns:
        The history: a dict for each epoch, losses in nats per image.

    Raises:
        ValueError: the backup is damaged, or its history is.
        KeyboardInterrupt: there is something in `signals`; it is the exception's argument.
        OSError: a file could not be written; those before it are whole.
    """
    backup, epochs = output / "backup.keras", settings["epochs"]
    decoder = build_decoder(encoder)
    codes = draw_codes(settings["prior"], 225, encoder.output_shape[1], temperature=0.8, seed=0)
    bare = keras.Model(encoder.input, encoder.output, name="encoder")  # without its optimiser

    history = []
    if backup.exists():
        encoder.optimizer.build(encoder.trainable_variables)
        try:
            check_zip(backup)
            encoder.load_weights(backup)
            history = read_history(output)
        except Exception as error:  # h5py and Keras have many
            raise ValueError(f"{backup} is damaged ({first_line(error)}); use --fresh") from None
        done = int(encoder.optimizer.iterations) // math.ceil(len(x_train) / settings["batch_size"])
        history = history[:done]
        print(f"going on after epoch {done} of {epochs}")

    def stop_if_asked(batch, logs):
        if signals:
            raise KeyboardInterrupt(signals[0])

    def keep(epoch, logs):
        for key in ("", "val_") if settings["noise"] == GREY_LEVEL else ():
            nats = -logs[key + "loss"] - constant(settings["prior"], codes.shape[1])
            logs[key + "log_likelihood"] = nats
            logs[key + "bits_per_dim"] = bits_per_dimension(nats, codes.shape[1])
        history.append({"epoch": epoch + 1, **logs})
        if history[-1] is best(history):
            replace(output / "nice.keras", bare.save)
        images = ops.convert_to_numpy(decoder(codes))
        picture = output / "samples" / f"epoch_{epoch + 1:03}.png"
        replace(picture, lambda partial: imageio.imwrite(partial, grid(images, 15, 15)))
        replace(output / "history.csv", lambda partial: write_history(partial, history))
        if math.isfinite(logs["loss"]):
            replace(backup, encoder.save)
        encoder.stop_training = True  # fit one epoch at a time, see below

    callbacks = [
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.LambdaCallback(
            on_epoch_end=keep, on_train_batch_end=stop_if_asked, on_test_batch_end=stop_if_asked
        ),
    ]
    for epoch in range(len(history), epochs):
        # Order and noise hang on seed and epoch alone, so that a resumed run sees the same data.
        rng = np.random.default_rng([settings["seed"], epoch])
        encoder.layers[2].seed_generator.state.assign(rng.integers(2**31, size=2))
        encoder.fit(
            **batches(x_train[rng.permutation(len(x_train))], settings["batch_size"]),
            shuffle=False,
            validation_data=(x_test, np.zeros(len(x_test))),
            validation_batch_size=1000,
            initial_epoch=epoch,
            epochs=epochs,
            callbacks=callbacks,
            verbose=1 if sys.stdout.isatty() else 2,
        )
        if not math.isfinite(history[-1]["loss"]):
            break
    pictures = output.glob("samples/epoch_*.png")
    pictures = sorted(pictures, key=lambda path: (len(path.name), path))  # 1000 is after 999
    frames = [imageio.imread(path) for path in pictures]
    animate = functools.partial(imageio.imwrite, image=frames, duration=300, loop=0)
    replace(output / "training.gif", animate)
    backup.unlink(missing_ok=True)
    return history


def grid(images, rows, columns):
    """Tile rows * columns images into one uint8 picture, their values clipped to [0, 1]."""
    height, width, *channels = images.shape[1:]
    pixels = (255 * np.clip(np.nan_to_num(images), 0, 1)).round().astype("uint8")
    pixels = pixels.reshape(rows, columns, height, width, *channels).swapaxes(1, 2)
    picture = pixels.reshape(rows * height, columns * width, *channels)
    return picture[..., 0] if channels == [1] else picture


def best(history):
    """The epoch with the lowest test loss, or None if none is finite."""
    finite = [row for row in history if math.isfinite(row["val_loss"])]
    return min(finite, key=lambda row: row["val_loss"], default=None)


def write_history(path, history):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)


def read_history(output):
    with open(output / "history.csv", newline="") as file:
        return [{key: float(row[key]) for key in row} for row in csv.DictReader(file)]


def describe_likelihood(encoder, x_test, draws=10):
    """Measure the mean test log-likelihood over some draws of the noise; say it in one line.

    It means something only under the noise that the model was trained with.
    """
    noise = encoder.layers[2].width
    means = []
    for seed in range(draws):
        x = add_noise(x_test, noise or GREY_LEVEL, seed)
        means.append(log_likelihood(encoder, x).mean())
    nats, error = np.mean(means), np.std(means, ddof=1) / math.sqrt(draws)
    line = f"test log-likelihood: {nats:.2f} ± {error:.2f} nats"
    if noise in (0, GREY_LEVEL):
        line += f", {bits_per_dimension(nats, encoder.output_shape[1]):.3f} bits/dim"
    if noise == 0:
        line += " (trained without noise, the model knows nothing of what lies between grey levels)"
    elif noise != GREY_LEVEL:
        line += f" (under noise {noise:g} wide; the paper's 1980.50 is under 1/256: do not compare)"
    return line


# --- Output folder ---------------------------------------------------------------------------


def replace(path, write):
    """Call `write` on another path, then rename: `path` is whole at any moment, old or new."""
    partial = path.with_name("partial-" + path.name)
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def claim(output):
    """Make the folder, and lock it against other runs until the lock returned is closed.

    The system drops the lock if the process dies.

    Raises:
        ValueError: another run has the lock.
        OSError: the folder cannot be written.
    """
    (output / "samples").mkdir(parents=True, exist_ok=True)
    try:
        lock = sqlite3.connect(output / ".lock", timeout=0)
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        raise ValueError(f"{output} is in use by another run, or read-only ({error})") from None
    return lock


def start_or_go_on(output, settings, fresh):
    """Make the folder ready for a new run, or for going on with the run that it holds.

    Raises:
        ValueError: it holds a model that another run would replace.
    """
    file, model = output / "settings.json", output / "nice.keras"
    advice = "choose another --output, or start over with --fresh"
    if fresh:
        if model.exists():
            print(f"--fresh: a new run replaces {model} as soon as its first epoch is done")
        old = [output / "backup.keras", output / "history.csv", output / "training.gif"]
        for path in (*old, *output.glob("samples/epoch_*.png")):
            path.unlink(missing_ok=True)
    elif file.exists():
        for name, value in json.loads(file.read_text()).items():
            if settings.get(name) != value:
                raise ValueError(
                    f"{output} holds a run with {name} {value}, not {settings.get(name)}: {advice}"
                )
        if (output / "training.gif").exists():
            raise ValueError(f"{output} holds a finished run: {advice}")
    elif model.exists():
        raise ValueError(f"{model} exists, and not from a run in this folder: {advice}")
    replace(file, lambda partial: partial.write_text(json.dumps(settings, indent=2)))


# --- Command line ----------------------------------------------------------------------------


def number(kind, least):
    """Make an argparse type: a finite number of this kind, at least `least`."""

    def parse(text):
        value = kind(text)
        if not (math.isfinite(value) and value >= least):
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return value

    parse.__name__ = kind.__name__  # for argparse's "invalid int value"
    return parse


class Parser(argparse.ArgumentParser):
    """An argparse parser that puts an error in one line, without the usage."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {' '.join(str(message).split())}\n")


def make_parser():
    parser = Parser(description="Train NICE on images.", allow_abbrev=False)
    parser.add_argument("--data", default=DATA, help=".npz file or Keras data set (default: MNIST)")
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder to write to")
    parser.add_argument("--evaluate", action="store_true", help="only measure the output's model")
    parser.add_argument("--fresh", action="store_true", help="start over in the output folder")
    parser.add_argument("--recipe", choices=RECIPE_NAMES, default="fast", help="set of values for:")
    size, real = number(int, 1), number(float, 0)
    parser.add_argument("--prior", choices=PRIORS, help="density of the codes")
    for name, kind in {
        "epochs": size,
        "batch_size": size,
        "learning_rate": real,
        "noise": real,
        "couplings": size,
        "hidden_layers": size,
        "hidden_units": size,
        "seed": number(int, 0),
    }.items():
        values = ", ".join(f"{v:g} {n}" for n, v in zip(RECIPE_NAMES, RECIPES[name], strict=True))
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=values)
    return parser


def listen():
    """From now on, note SIGINT and SIGTERM in the list that is returned."""
    signals = []

    def note(number, frame):
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return signals


def warn(message):
    print(f"nice.py: {message}", file=sys.stderr)


def main(argv=None):
    """Train, and return the exit status: 0, 1 if training failed, 128 + a signal's number."""
    parser = make_parser()
    args = parser.parse_args(argv)
    column = RECIPE_NAMES.index(args.recipe)
    settings = {name: values[column] for name, values in RECIPES.items()}
    settings |= {k: v for k, v in vars(args).items() if k in settings and v is not None}
    model = args.output / "nice.keras"
    random.seed(settings["seed"])  # from here Keras draws the seeds of weights and noise
    try:
        x_train, x_test, _ = load_images(args.data)
        if args.evaluate:
            encoder = load_encoder(model)
            check_shape(encoder, x_test)
            print(describe_likelihood(encoder, x_test))
            return 0
        settings["data"] = f"{zlib.crc32(x_train) ^ zlib.crc32(x_test):08x}"
        x_train, x_valid = split(x_train, x_test, settings)
        batch = settings["batch_size"]
        use_all_devices(batch, 1000, len(x_train) % batch, len(x_valid) % 1000, len(x_test) % 1000)
        names = ("couplings", "hidden_layers", "hidden_units", "output_activation")
        names = (*names, "output_gain", "noise", "prior", "scale_factor")
        encoder = build_encoder(x_train.shape[1:], **{name: settings[name] for name in names})
        lock = claim(args.output)
    except (ValueError, OSError) as error:
        parser.error(error)
    again = f"run the same command {'without --fresh' if args.fresh else 'again'} to go on"
    try:
        start_or_go_on(args.output, settings, args.fresh)
        print(
            f"{encoder.count_params():,} parameters, {len(x_train):,} training images of shape "
            f"{x_train.shape[1:]}, {len(x_valid):,} to choose the model, {keras.backend.backend()}"
        )
        if settings["scale_from_data"]:
            scale_from_data(encoder, x_train)
        compile_encoder(encoder, settings, math.ceil(len(x_train) / settings["batch_size"]))
        history = train(encoder, x_train, x_valid, settings, args.output, listen())
    except ValueError as error:
        parser.error(error)
    except KeyboardInterrupt as interrupt:
        begun = (args.output / "backup.keras").exists()  # the model alone may be an older run's
        kept = f"{model} is the best model so far" if begun else "no epoch was finished"
        warn(f"stopped: {kept}; {again}")
        return 128 + interrupt.args[0]
    except OSError as error:
        warn(f"cannot write to {args.output}: {first_line(error)}; make room, then {again}")
        return 1
    finally:
        lock.close()

    top, last = best(history), history[-1]
    causes = "too high a --learning-rate, or no --noise, so that nothing bounds log s"
    failed = top is None or not math.isfinite(last["loss"])
    if failed:
        loss = last["val_loss"] if math.isfinite(last["loss"]) else last["loss"]
        warn(f"training stopped: the loss became {loss} in epoch {len(history)} ({causes})")
    elif not last["val_loss"] <= top["val_loss"] + 0.1 * abs(top["val_loss"]):  # or it is NaN
        warn(f"training fell apart after its best epoch ({causes}); the best model is kept")
    if top:
        kind = "validation" if settings["holdout"] else "test"
        print(f"best {kind} loss {top['val_loss']:.2f}, epoch {top['epoch']:.0f} of {len(history)}")
        if settings["noise"] == GREY_LEVEL:
            print(describe_likelihood(load_encoder(model), x_test))
        options = "" if args.output == Path("output") else f" --model {model}"
        print(f"model: {model}\nnext:  python sample.py{options}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
