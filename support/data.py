"""Images and their labels: load and check them."""

from support.errors import UserError

import zlib
from pathlib import Path

import numpy as np

MNIST = Path(__file__).parent.parent / "data" / "mnist.npz"

# The arrays of a data file: their names here, and in the files of MedMNIST.
NAMES = {
    "x_train": "train_images",
    "y_train": "train_labels",
    "x_test": "test_images",
    "y_test": "test_labels",
}
CHANNELS = (1, 3, 4)  # grey, RGB, RGB with alpha
REMEDY = (
    'make one: np.savez("mine.npz", x_train=train, x_test=test), '
    "images (n, height, width) or (n, height, width, channels)"
)


def load(path=MNIST):
    """Load images and labels from an .npz file, without running code that is in it.

    Args:
        path: a file with the arrays x_train and x_test, perhaps y_train and y_test, as
            in `check`. MedMNIST's names of them will do.

    Returns:
        (x_train, y_train), (x_test, y_test), as of `check`.

    Raises:
        UserError: the file or its arrays cannot be used.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; {REMEDY}")
    if path.suffix != ".npz":
        raise UserError(f"{path}: not an .npz file; {REMEDY}")
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name, other_name in NAMES.items():
                if name in file:
                    arrays[name] = read_array(file, name)
                elif other_name in file:
                    arrays[name] = read_array(file, other_name)
    except Exception as error:  # a damaged file fails in many ways
        message = f"{path}: not a readable .npz file ({error}); {REMEDY}"
        raise UserError(message) from None
    if "x_train" not in arrays or "x_test" not in arrays:
        found = ", ".join(file.files)
        raise UserError(f"{path}: no x_train and x_test, but {found}; {REMEDY}")
    return check(arrays, path)


def read_array(file, name):
    """Read an array of an open .npz file; one of dtype object is not read."""
    try:
        return file[name]
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        return np.array(None, dtype="object")  # `check` says that it is of this dtype


def check(arrays, source):
    """Check the arrays of a data set.

    Args:
        arrays: dict of x_train and x_test, and perhaps y_train and y_test. Images are
            (n, height, width) or (n, height, width, channels), integers 0...255,
            floats 0...1 or booleans. Labels are those of `integer_labels`.
        source: the name of the data set, for messages.

    Returns:
        (x_train, y_train), (x_test, y_test): images as of `to_grey_levels`; labels
        int64 (n,), or None.

    Raises:
        UserError: there are images that cannot be used.
    """
    x_train = to_grey_levels(arrays["x_train"], f"{source}: x_train")
    x_test = to_grey_levels(arrays["x_test"], f"{source}: x_test")
    if x_train.shape[1:] != x_test.shape[1:]:
        shapes = f"{x_train.shape} and {x_test.shape}"
        remedy = "their heights, widths and channels must be the same"
        if x_train.shape[:-1] == x_test.shape[:-1]:  # such as (28, 28, n)
            remedy = (
                "the number of images comes first, x.transpose(2, 0, 1) puts it there"
            )
        raise UserError(f"{source}: x_train and x_test have shapes {shapes}: {remedy}")
    y_train = integer_labels(arrays.get("y_train"), len(x_train), f"{source}: y_train")
    y_test = integer_labels(arrays.get("y_test"), len(x_test), f"{source}: y_test")
    return (x_train, y_train), (x_test, y_test)


def to_grey_levels(images, name):
    """Check the images of a file, and return them in grey levels 0...255.

    Args:
        images: array as in `check`.
        name: its name, for messages.

    Returns:
        A uint8 array of the same shape, or a float32 array if the images are floats.

    Raises:
        UserError: the shape or the values are not those of images.
    """
    if images.dtype.kind not in "buif":
        raise UserError(f"{name} is of dtype {images.dtype}, no pixel values; {REMEDY}")
    check_axes(images.shape, name)
    if images.dtype.kind == "b":
        return images.astype("uint8") * np.uint8(255)
    if images.dtype.kind == "f":
        nearly_black = images.max() <= 0.1
        if nearly_black or not from_0_to_1(images):
            raise UserError(
                f"{value_range(images, name)}; white is 1: "
                "rescale it to integers 0...255 or floats 0...1"
            )
        images = np.minimum(images.astype("float32") * np.float32(255), 255)
    check_training_images(images, name)
    if images.dtype.kind == "f":
        return images
    return images.astype("uint8")


def check_training_images(images, name):
    """Raise UserError unless images can be trained on: grey levels 0...255, not dark.

    Images that are nearly black are mostly of another unit: 0/1, or 0...16.

    Args:
        images: array (n, ...), integers or floats.
        name: its name, for messages.
    """
    check_grey_levels(images, name)
    if images.min() < 0 or not 0.1 * 255 < images.max() <= 255:
        raise UserError(
            f"{value_range(images, name)}; white is 255: "
            "rescale it to integers or floats 0...255"
        )


def check_grey_levels(images, name="images"):
    """Raise UserError unless images can be measured: finite numbers, not of unit 1.

    They may leave 0...255, as a density is defined there, too.

    Args:
        images: array (n, ...).
        name: its name, for messages.
    """
    if images.dtype.kind not in "buif" or not len(images):
        raise UserError(f"{name}: no images: {images.dtype}, shape {images.shape}")
    if not np.all(np.isfinite(images)):
        raise UserError(f"{name} has values that are no finite numbers")
    of_unit_1 = images.dtype.kind == "b" or from_0_to_1(images)
    if of_unit_1 and images.any():
        raise UserError(f"{value_range(images, name)}: multiply them by 255")


def from_0_to_1(images):
    """Whether images are floats from 0 to 1, up to rounding."""
    return images.dtype.kind == "f" and images.min() >= 0 and images.max() < 1.001


def value_range(images, name):
    """The values of an array, in words."""
    low = images.min()
    high = images.max()
    return f"{name} has values from {low:g} to {high:g} ({images.dtype})"


def check_axes(shape, name):
    """Raise UserError unless an array of this shape can hold images."""
    has_channels = len(shape) == 4
    usable = len(shape) == 3 or (has_channels and shape[3] in CHANNELS)
    if usable and 0 not in shape:
        return
    found = f"{name} has shape {shape}"
    if has_channels and shape[1] in CHANNELS:
        remedy = "save x.transpose(0, 2, 3, 1)"
        raise UserError(f"{found}, but channels come last: {remedy}")
    if has_channels and shape[2] in CHANNELS:
        remedy = "save x.transpose(3, 0, 1, 2)"
        raise UserError(f"{found}, but the number of images comes first: {remedy}")
    raise UserError(f"{found}, no images; {REMEDY}")


def integer_labels(labels, count, name):
    """Return labels as an int64 array (count,), or None if they cannot be used.

    Args:
        labels: integers (count,) or (count, 1), one-hot (count, classes), digits as
            text, or None.
        count: the number of images.
        name: their name, for the line that is printed if they cannot be used.
    """
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.dtype.kind not in "buif":
        try:
            labels = labels.astype("str").astype("int64")  # digits as text
        except (TypeError, ValueError, OverflowError):
            found = f"{name} is left out: it is of dtype {labels.dtype}"
            print(f"{found}, not integers such as y.astype(int)")
            return None
    if labels.ndim == 2 and labels.shape[1] > 1:
        one_hot = np.sort(labels, axis=1)[:, -2:] == [0, 1]
        if np.all(one_hot):
            labels = labels.argmax(axis=1)
    if labels.shape not in ((count,), (count, 1)):
        print(f"{name} is left out: it has shape {labels.shape}, for {count} images")
        return None
    if np.any(labels % 1):
        print(f"{name} is left out: its numbers are not integers")
        return None
    return labels.astype("int64").reshape(count)


def hold_back(images, labels, share):
    """Split off the last training images, to choose the best epoch by.

    Args:
        images: array (n, ...).
        labels: array (n,), or None.
        share: part of the images that is held back, 0...1; at least one image if > 0.

    Returns:
        The images to train on, their labels or None, and the images held back.

    Raises:
        UserError: no image is left to train on.
    """
    if not share:
        return images, labels, images[:0]
    kept = len(images) - max(1, round(share * len(images)))
    if not kept:
        raise UserError(
            "one training image is too few: it is held back to choose the best epoch"
        )
    if labels is None:
        return images[:kept], None, images[kept:]
    warn_if_sorted(labels[:kept], labels[kept:])
    return images[:kept], labels[:kept], images[kept:]


def warn_if_sorted(kept, held):
    """Print a warning if the labels held back (n,) have some that those kept lack."""
    missing = np.setdiff1d(held, kept).tolist()
    if missing:
        print(
            f"warning: all images of the labels {missing} are held back, none is "
            "trained on: shuffle images and labels with one permutation, order = "
            "np.random.permutation(len(x)), x[order], y[order]"
        )


def fingerprint(*arrays):
    """A checksum of some arrays, to tell data sets apart."""
    checksums = [zlib.crc32(np.ascontiguousarray(array)) for array in arrays]
    return "-".join(f"{checksum:08x}" for checksum in checksums)


def check_images(images, image_shape):
    """Return images as an array; UserError if a model cannot measure them.

    Args:
        images: array or list (n, *image_shape), n at least 1, as of
            `check_grey_levels`.
        image_shape: of one image, that of the model.
    """
    images = np.asarray(images)
    if images.shape[1:] != tuple(image_shape) or not len(images):
        lengths = ", ".join(str(length) for length in image_shape)
        raise UserError(
            f"this model takes images (n, {lengths}), n at least 1, not {images.shape}"
        )
    check_grey_levels(images)
    return images
