"""Images: load and check them."""

import zlib
from pathlib import Path

import keras
import numpy as np

from support.errors import first_line

MNIST = Path(__file__).parent.parent / "data" / "mnist.npz"
KERAS_DATA_SETS = ("mnist", "fashion_mnist", "cifar10", "cifar100")


def load_images(data=MNIST):
    """Load training and test images as grey levels 0...255, and the test images' labels.

    Args:
        data: path of an .npz file with Keras's keys `x_train` and `x_test`, each of shape
            (images, height, width) or (images, height, width, channels) with 1, 3 or 4
            channels: integers in 0...255, floats in [0, 1] or booleans; and perhaps `y_test`.
            Or the name of a Keras data set, which Keras downloads.

    Returns:
        x_train, x_test (uint8, or float32 if they came as floats), and y_test or None.

    Raises:
        ValueError: the file is missing, damaged, or does not hold such images.
    """
    arrays = read_arrays(data, ("x_train", "x_test", "y_test"))
    x_train, x_test = (grey_levels(arrays, data, key) for key in ("x_train", "x_test"))
    if x_train.shape[1:] != x_test.shape[1:]:
        shapes = f"{x_train.shape[1:]} and {x_test.shape[1:]}"
        raise ValueError(f"{data}: training and test images differ in shape: {shapes}")
    return x_train, x_test, labels(arrays, data, len(x_test))


def load_test_images(data=MNIST):
    """Load the test images alone, and their labels: `load_images` without what training needs."""
    arrays = read_arrays(data, ("x_test", "y_test"))
    x_test = grey_levels(arrays, data, "x_test")
    return x_test, labels(arrays, data, len(x_test))


def read_arrays(data, keys):
    """Read those of the keys that are there, as a dict of arrays, running no code from the file."""
    if str(data) in KERAS_DATA_SETS:
        try:
            (x_train, _), (x_test, y_test) = getattr(keras.datasets, str(data)).load_data()
        except Exception as error:  # Keras raises a bare Exception
            raise ValueError(f"{data}: Keras cannot download it: {first_line(error)}") from None
        if keras.config.image_data_format() == "channels_first" and x_train.ndim == 4:
            x_train, x_test = np.moveaxis(x_train, 1, -1), np.moveaxis(x_test, 1, -1)
        return {"x_train": x_train, "x_test": x_test, "y_test": y_test}
    try:
        with np.load(data, allow_pickle=False) as file:
            for name in file.zip.namelist():  # each is also before its array: see that they agree
                file.zip.open(name).close()
            return {key: file[key] for key in keys if key in file}
    except FileNotFoundError:
        names = ", ".join(KERAS_DATA_SETS)
        raise ValueError(f"{data}: no such file, nor one of Keras's {names}") from None
    except Exception as error:  # a damaged file fails in zipfile's or NumPy's many ways
        raise ValueError(f"{data}: not a readable .npz file: {first_line(error)}") from None


def grey_levels(arrays, data, key):
    """Check an array of images; return it in grey levels, as uint8, or float32 if it has floats."""
    if key not in arrays:
        raise ValueError(f"{data}: has no {key}; expected arrays x_train and x_test")
    images, name = arrays[key], f"{data}: {key}"
    if images.dtype.kind not in "buif":
        raise ValueError(f"{name} holds {images.dtype}, not pixel values")
    channels = images.shape[3:]
    if images.ndim not in (3, 4) or images.size == 0 or channels not in ((), (1,), (3,), (4,)):
        raise ValueError(
            f"{name} holds no images: its shape is {images.shape}, not (images, height, width) "
            "or (images, height, width, channels) with 1, 3 or 4 channels"
        )
    if images.dtype.kind == "b":
        images = images.view("uint8")
        images *= np.uint8(255)  # in place: the array was read for us alone
        return images
    white = 1 if images.dtype.kind == "f" else 255
    if not (images.min() >= 0 and images.max() <= white):  # also where there is a NaN
        raise ValueError(f"{name} has values outside 0..{white} ({images.dtype})")
    if white == 1:
        images = images.astype("float32", copy=False)
        images *= np.float32(255)  # in place, too
        return images
    if images.max() == 1:
        raise ValueError(
            f"{name} has no value but 0 and 1, which of 0..255 is black: "
            "store it as booleans, or as floats in [0, 1]"
        )
    return images.astype("uint8", copy=False)


def labels(arrays, data, count):
    """The test images' labels, shape (count,), or None if there are none."""
    y_test = arrays.get("y_test")
    if y_test is None:
        return None
    if y_test.shape not in ((count,), (count, 1)):
        raise ValueError(f"{data}: y_test of shape {y_test.shape}, not one label an image: {count}")
    return y_test.ravel()


def fingerprint(*arrays):
    """A checksum of the arrays' shapes and bytes, as text."""
    check = zlib.crc32(repr([array.shape for array in arrays]).encode())
    for array in arrays:
        for start in range(0, len(array), 1000):  # bytes in another order are copied first
            check = zlib.crc32(np.ascontiguousarray(array[start : start + 1000]), check)
    return f"{check:08x}"


def check_shape(encoder, images):
    """Raise ValueError if the images are not of the shape that the encoder was trained on."""
    if images.shape[1:] != encoder.input_shape[1:]:
        raise ValueError(
            f"the data's images have shape {images.shape[1:]}, the model was trained on "
            f"{encoder.input_shape[1:]}: choose its --data"
        )
