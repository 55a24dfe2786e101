"""Draw from a trained NICE model, and look inside it:  python sample.py [picture]

Each picture is a function of a model, and of test images if it needs some. Most return
a sheet: images in rows and columns, in grey levels, with names.
"""

# `support` comes first: it sets up the backends before Keras starts them.
from support import command_line, data, devices, files, pictures
from support.errors import UserError
from support.pictures import GRID, TEMPERATURE, Sheet

import layers
import nice

import dataclasses
import sys
from collections.abc import Callable

import keras
import numpy as np
from keras import ops


def samples_picture(
    model,
    rows=GRID,
    columns=GRID,
    temperature=TEMPERATURE,
    label=None,
    source=None,
    seed=0,
):
    """New images: drawn from the prior and, if there is one, from the mixture.

    With a source or a label there is one grid, without a title.
    """

    def draw(source):
        images = model.sample(rows * columns, temperature, seed, label, source)
        return pictures.in_rows(images, columns)

    if source is not None or label is not None:
        return pictures.grid(draw(source), zoom=2)
    grids = {f"codes from the prior, T = {temperature:g}": draw("prior")}
    if model.mixture is not None:
        grids[f"codes from the mixture, T = {temperature:g}"] = draw("mixture")
    return pictures.titled(grids)


def labels_sheet(model, rows=20, columns=GRID, temperature=TEMPERATURE, seed=0):
    """New images from the mixture, a row for each label."""
    if model.mixture is None:
        raise UserError("no mixture is fitted to this model's codes yet")
    labels = model.mixture.labels
    if len(labels) > rows:
        print(f"the first {rows} of {len(labels)} labels; --rows shows more")
        labels = labels[:rows]
    drawn = [model.sample(columns, temperature, seed, label) for label in labels]
    return Sheet(np.stack(drawn), row_names=[str(label) for label in labels])


def choose(images, count, seed):
    """Choose `count` of the images at random; UserError if there are fewer."""
    if len(images) < count:
        raise UserError(
            f"this picture needs {count} test images, the data has {len(images)}"
        )
    rows = np.random.default_rng(seed).permutation(len(images))[:count]
    return images[rows]


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
        model.decode(np.stack(points, axis=1)),
        column_names=[f"{t:.2g}" for t in amounts],
        framed=(0, columns - 1),
    )


def traverse_sheet(model, images, rows=6, columns=9, seed=0):
    """A test image, moved along the first axes of its label, one in each row.

    It is moved by up to four standard deviations either way: those of codes of its
    label about the nearest means. In the middle it stands itself, in a frame, if the
    number of columns is odd. Its label is that of the mean nearest to its code.
    """
    if model.mixture is None:
        raise UserError("no mixture is fitted to this model's codes yet")
    amounts = np.linspace(-4, 4, columns, dtype="float32")
    (z,) = model.encode(choose(images, 1, seed))
    (nearest,) = model.mixture.nearest(z[None], model.sigma)
    axes = model.mixture.axes_of(nearest)[:rows]
    lines = [z + amounts[:, None] * axis for axis in axes]
    return Sheet(
        model.decode(np.stack(lines)),
        row_names=[f"axis {number}" for number in range(1, len(axes) + 1)],
        column_names=[pictures.minus(f"{amount:.3g}") for amount in amounts],
        headings={0: "a test image, moved by standard deviations of its label"},
        framed=tuple(np.flatnonzero(np.isclose(amounts, 0))),
    )


def walk(functions, x):
    """Call steps, or what undoes them: NumPy arrays of what stands between them."""
    values, _ = layers.chain(functions, ops.convert_to_tensor(x))
    return [ops.convert_to_numpy(h) for h in values]


def encode_steps(model, x):
    """Encode x (n, D) step by step: a list of arrays (n, D), from x to the code."""
    return walk(model.steps, x)


def decode_steps(model, z):
    """Decode codes (n, D) step by step: a list of arrays (n, D), from the code to x."""
    return walk([step.inverse for step in model.steps[::-1]], z)


def upright(model, walked):
    """Turn the values at each step the way that images lie.

    A step that reverses the values turns a picture by 180 degrees, and the next one
    that does turns it back.

    Args:
        walked: arrays (n, D) from x to the code: the list of `encode_steps`, or that of
            `decode_steps`, reversed.

    Returns:
        Such a list.
    """
    shown = [walked[0]]
    reversed_values = False
    for step, h in zip(model.steps, walked[1:], strict=True):
        if step.reverses:
            reversed_values = not reversed_values
        if reversed_values:
            h = h[:, ::-1]
        shown.append(h)
    return shown


def stages_sheet(model, images, rows=4, temperature=TEMPERATURE, source=None, seed=0):
    """Every step: test images become codes, and random codes become images.

    A column shows the values after the step that it names; all stand upright. Black is
    0. Bright is far from 0, on either side, and white is the column's largest size,
    but for one value in two hundred. Test images have noise as in training.
    """
    x = nice.add_noise(
        choose(images, rows, seed), model.noise, np.random.default_rng(seed)
    )
    x = x.reshape(rows, -1) / np.float32(model.levels)
    z = model.sample_codes(rows, temperature, seed, source=source)
    encoded = upright(model, encode_steps(model, x))
    decoded = upright(model, decode_steps(model, z)[::-1])
    stages = np.concatenate([np.stack(encoded, axis=1), np.stack(decoded, axis=1)])
    sizes = abs(stages)
    white = np.quantile(sizes, 0.995, axis=(0, 2), keepdims=True)
    shown = 255 * sizes / np.maximum(white, 1e-6)
    after = [f"after {number}" for number in range(1, len(model.steps))]
    return Sheet(
        shown.reshape(*shown.shape[:2], *model.image_shape),
        column_names=["x", *after, "code"],
        headings={
            0: "test images  ⟶  their codes",
            rows: "new images  ⟵  random codes",
        },
    )


def inpaint_sheet(model, images, rows=4, count=24, steps=300, seed=0):
    """Hidden pixels, found by gradient ascent on log q(x) (paper, section 5.2).

    The image comes first. Then, for each mask, what the model sees of it, with grey for
    the rest, and what it fills in. Below these is their log-likelihood. Prints the mean
    log-likelihoods of `count` images, or of `rows` if that is more: as they are, with
    the grey (very low), and filled in.
    """
    images = choose(images, max(rows, count), seed).astype("float32")
    nats = model.log_likelihood(images)
    shown = [images]
    notes = [describe_nats(nats)]
    names = ["original"]
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
        names += [f"{name}\nhidden", "filled in"]
    return Sheet(
        np.stack(shown, axis=1)[:rows],
        column_names=names,
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
    rng = np.random.default_rng(seed)
    filled = np.where(hidden, 255 * rng.random(images.shape), images)
    filled = keras.Variable(filled, dtype="float32")
    # Adam moves each pixel by about the rate, here in grey levels, however small its
    # gradient is. beta_2 averages over 100 steps, as there are only some hundreds.
    rate = keras.optimizers.schedules.PolynomialDecay(25.0, steps, 0.0)
    adam = keras.optimizers.Adam(rate, beta_2=0.99, epsilon=1e-12)
    bar = keras.utils.Progbar(steps, verbose=command_line.verbose())
    for _ in range(steps):
        noisy = nice.add_noise(ops.convert_to_numpy(filled), model.noise, rng)
        adam.apply([-model.score(noisy)], [filled])  # Adam descends
        filled.assign(ops.where(hidden, ops.clip(filled, 0, 255), images))
        bar.add(1)
    return ops.convert_to_numpy(filled)


# --- The program ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that the command line can name."""

    make: Callable  # of a model, perhaps test images, and options: a picture or a sheet
    options: tuple
    uses_images: bool = True  # test images
    moves: bool = False  # its columns are steps along a path, so it can be a .gif


PICTURES = {
    "samples": Picture(
        samples_picture,
        ("rows", "columns", "temperature", "label", "source", "seed"),
        uses_images=False,
    ),
    "labels": Picture(
        labels_sheet, ("rows", "columns", "temperature", "seed"), uses_images=False
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
        f"{name}: {p.make.__doc__.splitlines()[0]}" for name, p in PICTURES.items()
    ]
    parser = command_line.Parser(
        prog="sample.py",
        description="Draw from a trained model, and look inside it.",
        epilog=" ".join(summary),
    )
    add = parser.add_argument
    path = command_line.path
    add("picture", nargs="?", choices=PICTURES, default="samples", help="see below")
    add("--model", type=path, default=command_line.MODEL, help="a file of nice.py")
    add("--data", type=path, help="test images (default: those of the model's run)")
    add("--output", type=path, help="file to write (default: beside the model)")
    add("--rows", type=command_line.positive, help="rows of the picture")
    add("--columns", type=command_line.positive, help="columns of the picture")
    add(
        "--temperature",
        type=command_line.not_negative_real,
        help=f"how widely codes are spread (default: {TEMPERATURE})",
    )
    add("--label", type=int, help="draw images of this label only, from the mixture")
    add("--source", choices=["prior", "mixture"], help="where codes are drawn from")
    add("--seed", type=command_line.seed, help="of codes and chosen images")
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


@command_line.program("sample.py")
def main(argv):
    """Make the picture that the command line names."""
    args, options = parse(argv)
    picture = PICTURES[args.picture]
    model = nice.load(args.model)
    print(f"{args.model} on {devices.describe()}", flush=True)
    if picture.uses_images:
        path = args.data or files.recorded_data(args.model)
        _, (x_test, _) = data.load(path)
        images = data.check_images(x_test, model.image_shape)
        print(f"test images of {path}", flush=True)
        made = picture.make(model, images, **options)
    else:
        made = picture.make(model, **options)
    if args.output.suffix.lower() == ".gif":
        made = pictures.animate(made)
    elif isinstance(made, Sheet):
        made = pictures.draw(made)
    pictures.save(args.output, made)
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
