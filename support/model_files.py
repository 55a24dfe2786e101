"""Model files: load a .keras file, once it is known to be whole and harmless."""

import json
import zipfile

import keras
from keras import ops

from support import memory
from support.errors import first_line


def check_zip(path):
    """Read a zip file, such as a .keras file, once against its checksums."""
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
    if damaged:
        raise ValueError(f"its part {damaged} is damaged")


KERAS_CLASSES = {"Functional", "InputLayer", "Reshape", "DTypePolicy", "__keras_tensor__"}


def check_classes(path):
    """See that a .keras file names no classes but those that an encoder needs.

    Keras's safe mode refuses code in a file, but has let some in by way of classes that load
    more of it.
    """
    with zipfile.ZipFile(path) as file:
        parts = [json.loads(file.read("config.json"))]
    while parts:
        part = parts.pop()
        name = part.get("class_name") if isinstance(part, dict) else None
        known = name and keras.saving.get_registered_object(str(part.get("registered_name")))
        ours = known and part["registered_name"] == f"nice>{name}"
        if name and not ours and name not in KERAS_CLASSES:
            raise ValueError(f"a NICE model has no {name}")
        if isinstance(part, (dict, list)):
            parts += part.values() if isinstance(part, dict) else part


def load(path, use):
    """Load a model from a .keras file, without running any code that the file may carry.

    Args:
        use: a function that is tried on the model; if it fails, the model is not one of ours.

    Raises:
        ValueError: the file is missing, damaged, or not a NICE model.
    """
    memory.trim()  # training, if there was any, is over
    try:
        check_zip(path)
        check_classes(path)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        use(model)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such model; train one with: python nice.py") from None
    except Exception as error:  # a damaged file fails in zipfile's, h5py's or Keras's many ways
        ops.zeros(())  # a backend that does not start fails here again: no fault of the file
        raise ValueError(f"{path}: not a usable NICE model: {first_line(error)}") from None
    return model
