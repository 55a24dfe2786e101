"""Draw from a trained NICE model, and look inside it:  python sample.py [picture]

Each picture is a function of a model, and of test images if it needs some. It returns
a sheet: images in rows and columns, in grey levels, with names.
"""

# `support` comes first: it sets up the backends before Keras starts them.
from support import command_line, data, devices, files, pictures
from support.errors import UserError
from support.pictures import Sheet

import layers
import nice

import copy
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import ops


def samples_sheet(
    model,
    rows=pictures.GRID,
    columns=pictures.GRID,
    temperature=0.8,
    label=None,
    source="fitted",
    seed=0,
):
    """New images."""
    images = model.sample(
        rows * columns, temperature=temperature, seed=seed, label=label, source=source
    )
    return Sheet(images.reshape(rows, columns, *model.image_shape))


def labels_sheet(model, columns=pictures.GRID, temperature=0.8, seed=0):
    """New images, a row for each label."""
    if model.styles is None:
        raise UserError("no styles are fitted to this model's codes yet")
    labels = model.styles.labels
    rows = [model.sample(columns, temperature, seed, label) for label in labels]
    names = [str(label) for label in labels]
    return Sheet(np.stack(rows), names)


def choose(images, count, seed):
    """Choose `count` of the images at random; UserError if there are fewer."""
    if len(images) < count:
        raise UserError(
            f"this picture needs {count} test images, the data has {len(images)}"
        )
    rows = np.random.default_rng(seed).permutation(len(images))[:count]
    return images[rows]


def decode_grid(model, z):
    """Decode codes (rows, columns, D)."""
    rows, columns, size = z.shape
    images = model.decode(z.reshape(-1, size))
    return images.reshape(rows, columns, *model.image_shape)


def interpolate_sheet(model, images, rows=8, columns=11, seed=0):
    """Straight lines between the codes of two test images.

    The line is (1 - t) a + t b, with t from 0 to 1. Its ends are the images themselves;
    they have frames.
    """
    z = model.encode(choose(images, 2 * rows, seed))
    a = z[:rows]
    b = z[rows:]
    amounts = np.linspace(0, 1, columns, dtype="float32")
    points = [(1 - t) * a + t * b for t in amounts]
    return Sheet(
        decode_grid(model, np.stack(points, axis=1)),
        column_names=[f"{t:.2g}" for t in amounts],
        framed=(0, columns - 1),
    )


def traverse_sheet(model, images, rows=3, columns=9, seed=0):
    """Test images, moved along the first three axes of their label.

    Each is moved by up to three standard deviations either way, those of its label's
    codes about their means. In the middle it stands itself, in a frame, if the number
    of columns is odd. Its label is that of the mean which is nearest to its code.
    """
    if model.styles is None:
        raise UserError("no styles are fitted to this model's codes yet")
    amounts = np.linspace(-3, 3, columns, dtype="float32")
    codes = model.encode(choose(images, rows, seed))
    nearest = model.styles.nearest(codes, model.sigma)
    lines = []
    names = []
    for z, index in zip(codes, nearest, strict=True):
        for number, axis in enumerate(model.styles.axes_of(index)[:3], 1):
            lines.append(z + amounts[:, None] * axis)
            names.append(f"axis {number}")
    return Sheet(
        decode_grid(model, np.stack(lines)),
        row_names=names,
        column_names=[pictures.minus(f"{amount:.3g}") for amount in amounts],
        row_blocks=[("", len(names) // rows)] * rows,
        column_blocks=[("standard deviations about the label's means", columns)],
        framed=tuple(np.flatnonzero(np.isclose(amounts, 0))),
    )


def walk(model, x):
    """Encode x (n, D) step by step: a list of arrays (n, D), from x to the code."""
    seen = [x]
    for step in model.steps:
        h, _ = step(ops.convert_to_tensor(seen[-1]))
        seen.append(ops.convert_to_numpy(h))
    return seen


def walk_back(model, z):
    """Decode codes (n, D) step by step: a list of arrays (n, D), from the code to x."""
    seen = [z]
    for step in reversed(model.steps):
        h = step.inverse(ops.convert_to_tensor(seen[-1]))
        seen.append(ops.convert_to_numpy(h))
    return seen


def upright(model, walked):
    """Turn the values at each step the way that images lie.

    Each additive coupling reverses the values. That turns a picture by 180 degrees, and
    every second coupling turns it back. Steps of a reader's own are left as they are.

    Args:
        walked: arrays (n, D) from x to the code: the list of `walk`, or that of
            `walk_back`, reversed.

    Returns:
        Such a list.
    """
    shown = [walked[0]]
    reversed_values = False
    for step, h in zip(model.steps, walked[1:], strict=True):
        if isinstance(step, layers.AdditiveCoupling):
            reversed_values = not reversed_values
        if reversed_values:
            h = h[:, ::-1]
        shown.append(h)
    return shown


def stages_sheet(model, images, rows=4, temperature=0.8, source="fitted", seed=0):
    """Every step: test images become codes, and random codes become images.

    A column shows the values after the step that it names; all stand upright. Grey is
    0, white is 1 and black -1; in codes white is 3.2 and black -3.2. Test images have
    noise as in training.
    """
    pixels = choose(images, rows, seed).reshape(rows, -1)
    noise = np.random.default_rng(seed).random(pixels.shape, "float32")
    x = (pixels + model.noise * noise) / np.float32(model.levels)
    encoded = walk(model, x)
    z = model.sample_codes(rows, temperature, seed, source=source)
    drawn = walk_back(model, z)[::-1]
    blocks = []
    for walked in (encoded, drawn):
        *hidden, code = upright(model, walked)
        columns = [128 + 128 * h for h in hidden]
        columns.append(128 + 40 * code)
        blocks.append(np.stack(columns, axis=1))
    stages = np.concatenate(blocks)
    after = [f"after {number}" for number in range(1, len(model.steps))]
    return Sheet(
        stages.reshape(*stages.shape[:2], *model.image_shape),
        column_names=["x", *after, "code"],
        row_blocks=[
            ("test images  ⟶  their codes", rows),
            ("new images  ⟵  random codes", rows),
        ],
    )


def inpaint_sheet(model, images, rows=4, count=24, steps=300, seed=0):
    """Hidden pixels, found by gradient ascent on log q(x) (paper, section 5.2).

    The image comes first. Then, for each mask, what the model sees of it, with grey for
    the rest, and what it fills in. Below these is their log-likelihood. Prints the mean
    log-likelihoods of `count` images, or of `rows` if that is more: as they are, with
    the grey, which is very low, and filled in.
    """
    images = choose(images, max(rows, count), seed).astype("float32")
    nats = model.log_likelihood(images)
    shown = [images]
    notes = [describe_nats(nats)]
    names = ["original"]
    blocks = [("", 1)]
    print("log-likelihood  original    masked  in-painted")
    for name, mask in masks(model.image_shape).items():
        masked = np.where(mask, 127.5, images)
        filled = fill_in(model, images, mask, steps, seed)
        masked_nats = model.log_likelihood(masked)
        filled_nats = model.log_likelihood(filled)
        means = f"{masked_nats.mean():10.0f}{filled_nats.mean():12.0f}"
        print(f"{name:14}{nats.mean():10.0f}{means}", flush=True)
        shown += [masked, filled]
        notes += [[""] * len(images), describe_nats(filled_nats)]
        names += ["seen", "filled in"]
        blocks.append((f"{name} hidden", 2))
    return Sheet(
        np.stack(shown, axis=1)[:rows],
        column_names=names,
        column_blocks=blocks,
        notes=list(zip(*notes, strict=True))[:rows],
    )


def describe_nats(nats):
    """Texts of log-likelihoods (n,)."""
    return [pictures.minus(f"{value:.0f} nats") for value in nats]


def masks(image_shape):
    """Masks by name: arrays that are True where pixels are hidden."""
    height, width, *channels = image_shape
    y, x = np.indices((height, width))
    found = {
        "top half": y < (height - 1) / 2,
        "left half": x < (width - 1) / 2,
        "every second": (x + y) % 2 == 1,
        "random 75%": np.random.default_rng(0).random((height, width)) < 0.75,
    }
    if channels:
        found = {name: mask[..., None] for name, mask in found.items()}
    return found


class Canvas(keras.Model):
    """A model whose weights are pictures, and whose loss is -log q of them.

    So `fit` does the gradient ascent, on every backend. Its data are noise, a batch for
    each step. After a step the constraint puts back the pixels that are seen.
    """

    def __init__(self, flow, images, hidden):
        super().__init__()

        def keep(x):  # what is seen stays, and the rest stays in the range of pixels
            return ops.where(hidden, ops.clip(x, 0, 255), images)

        self.flow = flow
        self.pictures = self.add_weight(
            shape=images.shape, initializer="zeros", constraint=keep, name="pictures"
        )

    def call(self, noise):
        return self.flow.log_prob(self.pictures + noise)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return -ops.mean(y_pred)


def fill_in(model, images, hidden, steps=300, seed=0):
    """Fill in pixels where the mask `hidden` is True, by `steps` of Adam on -log q(x).

    Each step sees other noise, that of training. Pixels stay in 0...255.

    Args:
        model: a `Flow`.
        images: array (n, *image_shape), in grey levels.
        hidden: array that broadcasts to `image_shape`, True where pixels are hidden.
        steps: of Adam.
        seed: of the first values of the hidden pixels, and of the noise.

    Returns:
        A float32 array (n, *image_shape).
    """
    flow = copy.deepcopy(model)  # so that freezing it leaves the model as it is
    flow.trainable = False
    canvas = Canvas(flow, images, hidden)
    rng = np.random.default_rng(seed)
    start = np.where(hidden, 255 * rng.random(images.shape), images)
    canvas.pictures.assign(start)
    count = steps * len(images)
    noise = model.noise * rng.random((count, *model.image_shape), "float32")
    # Adam moves each pixel by about the rate, here in grey levels, however small its
    # gradient is. beta_2 averages over 100 steps, as there are only some hundreds.
    rate = keras.optimizers.schedules.PolynomialDecay(25.0, steps, 0.0)
    canvas.compile(keras.optimizers.Adam(rate, beta_2=0.99, epsilon=1e-12))
    canvas.fit(noise, batch_size=len(images), shuffle=False, verbose=0)
    return ops.convert_to_numpy(canvas.pictures)


# --- The program ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that the command line can name."""

    make_sheet: Callable
    options: tuple
    uses_images: bool = True  # test images
    moves: bool = False  # its columns are steps along a path, so it can be a .gif


PICTURES = {
    "samples": Picture(
        samples_sheet,
        ("rows", "columns", "temperature", "label", "source", "seed"),
        uses_images=False,
    ),
    "labels": Picture(
        labels_sheet, ("columns", "temperature", "seed"), uses_images=False
    ),
    "interpolate": Picture(interpolate_sheet, ("rows", "columns", "seed"), moves=True),
    "traverse": Picture(traverse_sheet, ("rows", "columns", "seed"), moves=True),
    "stages": Picture(
        stages_sheet, ("rows", "temperature", "source", "seed"), moves=True
    ),
    "inpaint": Picture(inpaint_sheet, ("rows", "count", "steps", "seed")),
}


def parse(argv):
    """Read the command line: what all pictures take, and the options of this one."""
    summary = [
        f"{name}: {p.make_sheet.__doc__.splitlines()[0]}"
        for name, p in PICTURES.items()
    ]
    parser = command_line.Parser(
        prog="sample.py",
        description="Draw from a trained model, and look inside it.",
        epilog=" ".join(summary),
    )
    add = parser.add_argument
    add("picture", nargs="?", choices=PICTURES, default="samples", help="see below")
    add("--model", type=Path, default=command_line.MODEL, help="a file of nice.py")
    add("--data", help="test images (default: those of the model's run)")
    add("--output", type=Path, help="file to write (default: beside the model)")
    add("--rows", type=command_line.positive, help="rows of the picture")
    add("--columns", type=command_line.positive, help="columns of the picture")
    add(
        "--temperature",
        type=command_line.not_negative_real,
        help="how widely codes are spread",
    )
    add("--label", type=int, help="draw images of this label only")
    add("--source", choices=["fitted", "prior"], help="where codes are drawn from")
    add("--seed", type=command_line.not_negative, help="of codes and chosen images")
    add("--count", type=command_line.positive, help="images to measure in-painting by")
    add("--steps", type=command_line.positive, help="steps of in-painting")
    args = parser.parse_args(argv)

    common = ("picture", "model", "data", "output")
    options = {}
    for name, value in vars(args).items():
        if name not in common and value is not None:
            options[name] = value
    picture = PICTURES[args.picture]
    for name in options:
        if name not in picture.options:
            parser.error(f"the picture {args.picture} has no --{name}")
    if args.data and not picture.uses_images:
        parser.error(f"the picture {args.picture} has no --data")
    if args.output is None:
        args.output = args.model.parent / f"{args.picture}.png"
    kinds = [".png"]
    if picture.moves:
        kinds.append(".gif")
    if args.output.suffix.lower() not in kinds:
        moving = ", ".join(name for name, p in PICTURES.items() if p.moves)
        parser.error(f"{args.output}: pictures are .png; {moving} also move as .gif")
    return args, options


# What the program says of where it draws from, and how to get the other.
SOURCES = {
    "fitted": "drawing from the styles of training images (--source prior: the prior)",
    "prior": "drawing from the prior (--source fitted: the styles of training images)",
}


def default_source(model, options):
    """Choose the styles; before training has fitted any, choose the prior."""
    if model.styles is None and "label" not in options:
        return "prior"
    return "fitted"


@command_line.program("sample.py")
def main(argv):
    """Make the picture that the command line names."""
    args, options = parse(argv)
    picture = PICTURES[args.picture]
    model = nice.load(args.model)
    print(f"{args.model} on {devices.describe()}", flush=True)
    if "source" in picture.options:
        options.setdefault("source", default_source(model, options))
        print(SOURCES[options["source"]], flush=True)
    if picture.uses_images:
        path = args.data or files.recorded_data(args.model)
        _, (x_test, _) = data.load(path)
        images = data.check_shape(x_test, model.image_shape)
        print(f"test images of {path}", flush=True)
        sheet = picture.make_sheet(model, images, **options)
    else:
        sheet = picture.make_sheet(model, **options)
    if args.output.suffix.lower() == ".gif":
        pictures.save(args.output, pictures.animate(sheet))
    else:
        pictures.save(args.output, pictures.draw(sheet))
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
