"""Make a data file of your own images:  python -m examples.own_images FOLDER mine.npz

FOLDER holds a folder for each label, as in shapes/circle/*.png, or images only. They
are .png, .jpg or .jpeg files, all of one size and kind; hidden files are skipped. Where
all these folders have integers as names, as in digits/7/*.png, these are the labels.
The images are put in random order, a sixth of them to test with.

The name of a data set, such as fashion_mnist, instead of FOLDER makes a file of that;
Keras downloads it.
"""

from support import command_line, data
from support.errors import UserError

import glob
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

KINDS = {(): "grey", (2,): "grey with alpha", (3,): "RGB", (4,): "RGB with alpha"}


def read_folder(folder):
    """Read the images below a folder, and label each by the name of its own folder.

    Returns:
        A dict of x_train, y_train, x_test and y_test.

    Raises:
        UserError: a file cannot be used, or there are too few.
    """
    paths = find_pictures(folder)
    if len(paths) < 6:
        raise UserError(f"{folder}: at least 6 images are needed, found {len(paths)}")
    images = [read_picture(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if describe(image) != describe(images[0]):
            first = f"{paths[0]} is {describe(images[0])}"
            raise UserError(f"{first}, {path} is {describe(image)}: make all alike")
    images = np.stack(images)
    labels = number_labels([path.parent.name for path in paths])
    order = np.random.default_rng(0).permutation(len(images))
    test, train = np.split(order, [len(images) // 6])
    return {
        "x_train": images[train],
        "y_train": labels[train],
        "x_test": images[test],
        "y_test": labels[test],
    }


def find_pictures(folder):
    """The pictures below a folder, sorted: hidden ones left out, links followed."""
    names = glob.glob("**/*", root_dir=folder, recursive=True)
    paths = sorted(folder / name for name in names)
    return [path for path in paths if path.suffix.lower() in (".png", ".jpg", ".jpeg")]


def read_picture(path):
    """Read a picture: a uint8 or boolean array; UserError if it cannot be used."""
    try:
        image = imageio.imread(path, plugin="pillow")
    except Exception as error:  # a damaged picture fails in many ways
        raise UserError(f"{path} is empty, damaged or no picture ({error})") from None
    usable = image.dtype in ("uint8", "bool") and image.shape[2:] in ((), (3,), (4,))
    if not usable:
        raise UserError(
            f"{path} is {describe(image)}: only 8 bits, grey or RGB, will do"
        )
    return image


def describe(image):
    """Size and kind of a picture, in words."""
    kind = KINDS.get(image.shape[2:], "animated")
    return f"{image.shape[0]} × {image.shape[1]} {kind} ({image.dtype})"


def number_labels(names):
    """The labels (n,) that names stand for: themselves if they are integers."""
    try:
        return np.array([int(name) for name in names])
    except ValueError:
        known, labels = np.unique(names, return_inverse=True)
        print(f"labels: {dict(enumerate(known.tolist()))}")
        return labels


def download(name):
    """Download a data set that Keras knows: a dict as of `read_folder`."""
    import keras  # here, as it takes seconds

    if not hasattr(keras.datasets, name):
        raise UserError(f"{name}: no such folder, nor a data set that Keras has")
    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises this class
        raise UserError(f"{name} cannot be downloaded: {error}") from None
    x_train, y_train = train
    x_test, y_test = test
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


@command_line.program("examples.own_images")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder of images, or a data set of Keras")
    parser.add_argument("output", type=Path, help=".npz file to write")
    args = parser.parse_args(argv)
    folder = Path(args.source)
    if folder.is_dir():
        arrays = read_folder(folder)
    else:
        arrays = download(args.source)
    (x_train, _), (x_test, _) = data.check(arrays, args.source)
    data.check_even(x_train.shape[1:])
    output = args.output
    if output.suffix != ".npz":
        output = output.with_name(output.name + ".npz")
    np.savez(output, **arrays)
    print(f"{len(x_train):,} images to train with, {len(x_test):,} to test with")
    print(f"next: python nice.py --data {output} --output mine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
