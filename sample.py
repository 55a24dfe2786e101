"""Draw from a trained NICE model, and look inside it:  python sample.py [picture]

First what other programs may want, arrays in and arrays out: `encode`, `decode`, `draw`. Then the
pictures, each a function whose keywords are its options. Images are in grey levels 0...255.
"""

from support import start  # isort: skip  # noqa: F401  (before Keras: it sets up the backends)

import inspect
import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops

import nice
from support import command_line, data, devices, files, pictures


def encode(encoder, images):
    """Encode images (n, *image_shape), without noise: float32 codes (n, D)."""
    images = data.check_batch(encoder, images)
    return encoder.predict(nice.Batches(images, 400, noise=0.0, shuffle=False), verbose=0)


def decode(encoder, z):
    """Decode codes (n, D): float32 images (n, *image_shape), not clipped."""
    decoder = nice.build_decoder(encoder)  # called, as `predict` would compile each new decoder
    parts = [decoder(z[i : i + 400]) for i in range(0, len(z), 400)]
    return np.concatenate([ops.convert_to_numpy(part) for part in parts])


def draw(encoder, count, temperature=0.8, seed=0, label=None, source="fitted"):
    """Draw new images.

    Args:
        temperature: how widely codes are spread. It changes what is drawn, never the model; the
            article chose 0.8 by eye. At 0 codes lie at the means.
        label: draw images of this label only, such as the digit 7.
        source: "fitted", the density fitted to the codes of training images, or "prior".

    Returns:
        A uint8 array (count, *image_shape). Decoded values may leave 0...255, and are clipped; they
        have the noise between the levels, and are rounded down.

    Raises:
        ValueError: the model does not know the label.
    """
    z = codes(encoder, count, temperature, seed, label, source)
    return np.clip(decode(encoder, z), 0, 255).astype("uint8")


def codes(encoder, count, temperature=0.8, seed=0, label=None, source="fitted"):
    """The codes that `draw` decodes: float32, (count, D)."""
    if source == "fitted" and (label is not None or has_sampler(encoder)):
        return sampler(encoder).sample(count, temperature, seed, label)
    if label is not None:
        raise ValueError("the prior knows no labels: leave out the label or the source")
    if source == "fitted":
        print("no density is fitted to this model's codes yet: drawing from the prior")
    return encoder.get_layer("prior").sample(count, temperature, seed)


def has_sampler(encoder):
    return "sampler" in [layer.name for layer in encoder.layers]


def sampler(encoder):
    """The density fitted to the codes of training images; ValueError if there is none yet."""
    if not has_sampler(encoder):
        raise ValueError("no density is fitted to this model's codes yet: that ends a training")
    return encoder.get_layer("sampler")


# --- The pictures ----------------------------------------------------------------------------
# Each returns an array of images (rows, columns, *image_shape), and labels of rows and columns.


def samples(encoder, *, rows=15, columns=15, temperature=0.8, label=None, source="fitted", seed=0):
    """new images (the default picture)"""
    images = draw(encoder, rows * columns, temperature, seed, label, source)
    return images.reshape(rows, columns, *images.shape[1:]), [], []


def labels(encoder, *, columns=15, temperature=0.8, seed=0):
    """new images, a row for each label"""
    known = sorted(set(sampler(encoder).labels))
    z = [codes(encoder, columns, temperature, seed, label) for label in known]
    return decode_sheet(encoder, np.stack(z)), [str(label) for label in known], []


def choose(images, count, seed):
    """Choose the places of `count` images; raise ValueError if there are fewer."""
    if len(images) < count:
        raise ValueError(f"this picture needs {count} test images, the data has {len(images)}")
    return np.random.default_rng(seed).permutation(len(images))[:count]


def interpolate(encoder, x_test, *, rows=8, columns=11, seed=0):
    """straight lines between the codes of two test images"""
    z = encode(encoder, x_test[choose(x_test, 2 * rows, seed)])
    a, b = z[:rows, None], z[rows:, None]
    t = np.linspace(0, 1, columns, dtype="float32")[:, None]
    return decode_sheet(encoder, (1 - t) * a + t * b), [], []


def decode_sheet(encoder, z):
    """Decode codes (rows, columns, D)."""
    images = decode(encoder, z.reshape(-1, z.shape[-1]))
    return images.reshape(*z.shape[:2], *images.shape[1:])


def traverse(encoder, x_test, *, rows=3, columns=9, seed=0):
    """test images, moved along the first three axes of their style

    Up to three deviations either way, with the image itself in the middle.
    """
    means, axes = map(ops.convert_to_numpy, (sampler(encoder).means, sampler(encoder).axes))
    sigma = encoder.get_layer("scaling").sigma
    z = encode(encoder, x_test[choose(x_test, rows, seed)])
    style = [np.argmin(np.sum((sigma * (means - one)) ** 2, axis=1)) for one in z]
    amounts = np.linspace(-3, 3, columns, dtype="float32")
    moved = z[:, None, None] + amounts[:, None] * axes[style][:, :3, None]  # (rows, 3, columns, D)
    names = [f"axis {k + 1}" for k in range(moved.shape[1])] * rows
    moved = moved.reshape(-1, columns, z.shape[1])
    return decode_sheet(encoder, moved), names, [f"{amount:+.1f}" for amount in amounts]


def stages(encoder, x_test, *, rows=4, temperature=0.8, source="fitted", seed=0):
    """every step of the flow: random codes become images, and test images become codes

    A column shows what is left when the step that it names is undone. Codes are drawn around mid
    grey; each coupling turns the picture, as it reverses the values.
    """
    grey, *steps = nice.flow_steps(encoder)
    x = x_test[choose(x_test, rows, seed)].reshape(rows, -1)
    there = [ops.convert_to_numpy(grey.transform(x.astype("float32")))]
    for step in steps:
        there.append(ops.convert_to_numpy(step.transform(ops.convert_to_tensor(there[-1]))))
    back = [codes(encoder, rows, temperature, seed, source=source)]
    for step in reversed(steps):
        back.append(ops.convert_to_numpy(step.inverse(ops.convert_to_tensor(back[-1]))))
    blocks = []
    for z, *h in (back, there[::-1]):
        blocks.append(np.stack([128 + 40 * z, *[grey.inverse(one) for one in h]], axis=1))
    images = np.concatenate(blocks).reshape(2 * rows, len(there), *encoder.input_shape[1:])
    names = ["code", "h", *[f"coupling {n}" for n in range(len(steps) - 1, 0, -1)]]
    return images, ["random code"] * rows + ["test image"] * rows, names


def inpaint(encoder, x_test, *, rows=4, count=24, steps=300, seed=0):
    """hidden pixels, found by gradient ascent on log q(x) (paper, section 5.2)

    For each mask: the image, what the model sees of it, and what it fills in. Prints the mean
    log-likelihood of `count` images as they are, masked with grey, and filled in.
    """
    images = x_test[choose(x_test, max(rows, count), seed)].astype("float32")
    y, x = np.indices(images.shape[1:3])
    scattered = np.random.default_rng(seed).random(y.shape) < 0.75
    masks = {"top half": y < y.max() / 2, "left half": x < x.max() / 2}
    masks |= {"every second": (x + y) % 2 == 1, "random 75%": scattered}
    sheet = []
    print("log-likelihood  original    masked  in-painted")
    for name, mask in masks.items():
        hidden = mask.reshape(mask.shape + (1,) * (images.ndim - 3))
        blocks = images, np.where(hidden, 127.5, images), fill_in(encoder, images, hidden, steps)
        nats = [nice.log_likelihood(encoder, block).mean() for block in blocks]
        print(f"{name:14}{nats[0]:10.0f}{nats[1]:10.0f}{nats[2]:12.0f}", flush=True)
        sheet += [block[:rows] for block in blocks]
    return np.stack(sheet, axis=1), [], [text for name in masks for text in ("", name, "")]


def fill_in(encoder, images, hidden, steps=300, seed=0):
    """Fill in pixels where the mask `hidden` is True, by `steps` of Adam on -log q(x).

    The pictures are the weight of a layer in front of the encoder, which is kept as it is. Each
    step sees other noise, that of training; pixels stay in 0...255.
    """

    def keep(x):
        return ops.where(hidden, ops.clip(x, 0, 255), images)

    class Canvas(keras.Layer):
        def build(self, _):
            options = {"initializer": "zeros", "constraint": keep}
            self.pictures = self.add_weight(images.shape, **options)

        def call(self, noise):
            return self.pictures + noise

    rng, width = np.random.default_rng(seed), encoder.get_layer("grey_levels").noise
    noise = keras.Input(batch_shape=images.shape)
    canvas = Canvas(dtype="float32")
    model = keras.Model(noise, encoder(canvas(noise)))
    canvas.pictures.assign(np.where(hidden, 255 * rng.random(images.shape), images))
    draws = width * rng.random((steps * len(images), *images.shape[1:]), "float32")
    before = [layer.trainable for layer in encoder.layers]
    encoder.trainable = False
    try:
        rate = keras.optimizers.schedules.PolynomialDecay(25.0, steps, 0.0)
        model.compile(keras.optimizers.Adam(rate, beta_2=0.99, epsilon=1e-12))
        model.fit(draws, batch_size=len(images), shuffle=False, verbose=0)
    finally:
        encoder.trainable = True
        for layer, trainable in zip(encoder.layers, before, strict=True):
            layer.trainable = trainable
    return ops.convert_to_numpy(canvas.pictures)


# --- The program -----------------------------------------------------------------------------

PICTURES = {f.__name__: f for f in (samples, labels, interpolate, traverse, stages, inpaint)}
MOVING = ("interpolate", "traverse", "stages")  # their columns are steps along a path


@command_line.program
def main(argv):
    """Make the picture that the command line names."""
    parser = command_line.Parser(prog="sample.py", description=__doc__.splitlines()[0])
    summary = [f"{name}: {f.__doc__.splitlines()[0]}" for name, f in PICTURES.items()]
    parser.add_argument("picture", nargs="?", choices=PICTURES, default="samples")
    parser.add_argument("--model", type=Path, default=command_line.MODEL)
    parser.add_argument("--data", help="test images (default: those of the model's run)")
    parser.add_argument("--output", type=Path, help="default: beside the model")
    parser.epilog = "; ".join(summary)
    size, seed, real = command_line.SIZE, command_line.SEED, command_line.REAL
    parser.add_options(rows=size, columns=size, temperature=real, label=int, seed=seed)
    parser.add_options(source=["fitted", "prior"], count=size, steps=size)
    args = vars(parser.parse_args(argv))
    picture, model, path, output = map(args.pop, ("picture", "model", "data", "output"))
    takes = inspect.signature(PICTURES[picture]).parameters
    for name in set(args) - set(takes) | ({"data"} if path and "x_test" not in takes else set()):
        parser.error(f"the picture {picture} has no --{name}")
    output = output or model.parent / f"{picture}.png"
    kind = output.suffix.lower()
    if kind not in (".png", ".gif") or (kind == ".gif" and picture not in MOVING):
        raise ValueError(f"{output}: pictures are .png; {', '.join(MOVING)} also move as .gif")

    inputs = [nice.load_encoder(model)]
    if "x_test" in takes:
        _, (x_test, _) = data.load(path := path or files.recorded_data(model))
        inputs.append(data.check_batch(inputs[0], x_test))
    print(f"{model} on {devices.describe()}{f', images of {path}' if path else ''}", flush=True)
    images, *names = PICTURES[picture](*inputs, **args)
    if kind == ".gif":  # the columns, one after another, there and back
        made = [pictures.grid(column, len(column), 1, zoom=2) for column in images.swapaxes(0, 1)]
        made += made[-2:0:-1]
    else:
        made = pictures.sheet(images, *names)
    pictures.save(output, made)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
