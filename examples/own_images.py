"""Make a data file of your own images:  python -m examples.own_images FOLDER mine.npz

FOLDER holds a folder for each label, as in shapes/circle/*.png, or images only. They
are .png, .jpg, .bmp, .tif or .webp files, all of one size and kind, and are turned as
their camera says; hidden files are skipped. Where all these folders have integers as
names, as in digits/7/*.png, these are the labels. The images are put in random order, a
sixth of them to test with.

The name of a data set, such as fashion_mnist, instead of FOLDER makes a file of that;
Keras downloads it.
"""

from support import command_line, data, files
from support.errors import UserError

import glob
import re
import shlex
import sys

import imageio.v3 as imageio
import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
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
        kinds = ", ".join(SUFFIXES)
        raise UserError(
            f"{folder}: at least 6 images are needed, found {len(paths)} of {kinds}"
        )
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
    files_found = sorted(path for path in map(folder.joinpath, names) if path.is_file())
    paths = [path for path in files_found if path.suffix.lower() in SUFFIXES]
    others = [path for path in files_found if path.suffix.lower() not in SUFFIXES]
    if others:
        print(f"left out: {len(others)} files of other kinds, such as {others[0]}")
    return paths


def read_picture(path):
    """Read a picture: a uint8 or boolean array; UserError if it cannot be used."""
    try:
        image = imageio.imread(path, plugin="pillow", rotate=True)
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
    """The labels (n,) that names stand for: themselves if all are plain integers.

    Plain is 10, not 010 or 1_0, which Python would read as 10, too.
    """
    if all(re.fullmatch("0|-?[1-9][0-9]*", name) for name in names):
        return np.array([int(name) for name in names])
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
    parser.add_argument("output", type=command_line.path, help=".npz file to write")
    args = parser.parse_args(argv)
    folder = command_line.path(args.source)
    if folder.is_dir():
        arrays = read_folder(folder)
    else:
        arrays = download(args.source)
    (x_train, _), (x_test, _) = data.check(arrays, args.source)
    output = args.output
    if output.suffix != ".npz":
        output = output.with_name(output.name + ".npz")
    files.write_whole(output, lambda partial: np.savez(partial, **arrays))
    print(f"{len(x_train):,} images to train with, {len(x_test):,} to test with")
    print(f"next: python nice.py --data {shlex.quote(str(output))} --output mine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
