"""Images and their labels: load and check them."""

import math
import zlib
from pathlib import Path

import numpy as np

MNIST = Path(__file__).parent.parent / "data" / "mnist.npz"
KEYS = {"x_train": "train_images", "y_train": "train_labels"}  # ours, and MedMNIST's
KEYS |= {"x_test": "test_images", "y_test": "test_labels"}
SAVE = 'make one: np.savez("mine.npz", x_train=train, x_test=test), images (n, height, width)'


def load(path=MNIST):
    """Load (x_train, y_train), (x_test, y_test) from an .npz file; ValueError if it is none.

    Images (n, height, width) or (n, height, width, channels), integers 0...255, floats 0...1 or
    booleans, become uint8 in grey levels, floats float32; labels (n,) int64, or all `None`.
    """
    path = Path(path)
    if not path.is_file() or path.suffix != ".npz":
        raise ValueError(f"{path}: {'not an .npz' if path.exists() else 'no such'} file; {SAVE}")
    try:
        with np.load(path, allow_pickle=False) as file:  # no code in the file is run
            found = {key: name for key in KEYS for name in (key, KEYS[key]) if name in file}
            arrays = {key: file[found[key]] for key in found}
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(f"{path}: not a readable .npz file ({error}); {SAVE}") from None
    if not {"x_train", "x_test"} <= set(arrays):
        raise ValueError(f"{path}: no x_train and x_test, but {', '.join(file.files)}; {SAVE}")
    x_train, x_test = (grey_levels(arrays[x], f"{path}: {x}") for x in ("x_train", "x_test"))
    if x_train.shape[1:] != x_test.shape[1:]:
        shapes = f"{x_train.shape[1:]} and {x_test.shape[1:]}"
        raise ValueError(f"{path}: training and test images have different shapes, {shapes}")
    y_train = labels(arrays.get("y_train"), len(x_train), f"{path}: y_train")
    return (x_train, y_train), (
        x_test,
        labels(arrays.get("y_test"), len(x_test), f"{path}: y_test"),
    )


def grey_levels(images, name):
    """Check an array of images; return it in grey levels, as uint8, or float32 if it has floats."""
    kind, channels = images.dtype.kind, images.shape[3:]
    if images.ndim not in (3, 4) or not images.size or channels not in ((), (1,), (3,), (4,)):
        raise ValueError(f"{name} has shape {images.shape}, no images; {SAVE}, perhaps channels")
    if kind not in "buif":
        raise ValueError(f"{name} holds {images.dtype}, no pixel values; {SAVE}")
    if kind == "b":
        return images.astype("uint8") * np.uint8(255)
    white, low, high = 1 if kind == "f" else 255, images.min(), images.max()
    found = f"{name} has values from {low:g} to {high:g} ({images.dtype}); white is {white}"
    if not 0 <= low <= high <= white or high <= 0.1 * white:  # also where there is a NaN
        raise ValueError(f"{found}: rescale it to integers 0...255 or floats 0...1")
    if high <= 0.5 * white:
        print(f"{found}: rather dark")
    return images.astype("float32") * np.float32(255) if white == 1 else images.astype("uint8")


def labels(values, count, name):
    """Labels as integers (count,), of (count, 1) or one-hot ones, too; all `None` if unusable."""
    values = np.full(count, None) if values is None else np.asarray(values)
    if values.ndim == 2 and len(values) == count and np.all(np.sort(values)[:, -2:] == [0, 1]):
        values = values.argmax(axis=1)  # one-hot
    if values.size == count and values.dtype.kind in "buif" and not np.any(values % 1):
        return values.astype("int64").ravel()
    if values.dtype.kind != "O":
        print(f"{name} is left out: {values.dtype} {values.shape} is not an integer an image")
    return np.full(count, None)


def fingerprint(*arrays):
    """A checksum of some arrays, to tell data sets apart."""
    return "-".join(f"{zlib.crc32(np.ascontiguousarray(array)):08x}" for array in arrays)


def check_even(shape):
    """Raise ValueError unless images of this shape have a known, even number of values."""
    if not shape or None in shape:
        raise ValueError(f"the shape of an image must be known, such as (28, 28), not {shape}")
    if math.prod(shape) % 2:
        raise ValueError(
            f"{' × '.join(map(str, shape))} images have {math.prod(shape)} values; couplings need "
            "an even number (reversing an odd number leaves even positions even, so the halves "
            "would not take turns): crop or pad a row"
        )


def check_batch(encoder, images):
    """Images as an array; ValueError if they are not what the encoder was built for."""
    images, shape = np.asarray(images), ", ".join(map(str, encoder.input_shape[1:]))
    if images.shape[1:] != encoder.input_shape[1:] or not len(images):
        raise ValueError(f"this model takes images (n, {shape}), n at least 1, not {images.shape}")
    return images
