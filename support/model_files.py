"""Model files: see that a .keras file is whole and harmless before Keras reads it."""

import json
import zipfile

import keras


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
