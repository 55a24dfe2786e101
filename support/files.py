"""The output folder of a training run: whole files, one run, its history; and model files."""

import json
import os
import signal
import threading
import zipfile
from pathlib import Path

import keras

ADVICE = "choose another --output, or start over with --fresh"


def replace(path, write):
    """Call `write` on a temporary path, then rename it: `path` is whole at any moment.

    Ctrl-C waits until then: h5py calls Python from C, where an exception would be lost.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{os.getpid()}-{path.name}")
    received, ours = [], threading.current_thread() is threading.main_thread()
    before = ours and signal.signal(signal.SIGINT, lambda *_: received.append(signal.SIGINT))
    try:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # flush to disk, or after a power cut the file may be empty
        os.replace(partial, path)
    except OSError as error:
        raise OSError(f"cannot write {path} ({error}): make room, or go elsewhere") from None
    finally:
        partial.unlink(missing_ok=True)
        if ours:
            signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


def claim(output, settings, fresh=False):
    """Make a folder ready for a new run, or for going on with one of the same settings (a dict)."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: --output names a folder")
    before = {} if fresh else read_settings(output)
    if before.pop("finished", False):
        raise ValueError(f"{output} holds a finished run: {ADVICE}, or go on from it with --start")
    if not before and not fresh and (output / "nice.keras").exists():
        raise ValueError(f"{output} holds a model that is of no run: {ADVICE}")
    for name, old in before.items():
        if settings.get(name) != old:
            found = f"{name} {old}, not {settings.get(name, 'known to this version')}"
            raise ValueError(f"{output} holds a run with {found}: {ADVICE}")
    old = ("backup.*.keras", "history.json", "training.png", "training.gif", "samples/epoch_*.png")
    for pattern in ("partial-[0-9]*", "samples/partial-[0-9]*", *(old if fresh else ())):
        for path in output.glob(pattern):
            path.unlink()
    write_json(output / "settings.json", settings)


def write_json(path, value):
    replace(path, lambda partial: partial.write_text(json.dumps(value, indent=2)))


def read_settings(output):
    """The settings of the run in a folder, a dict, empty if there are none."""
    file = output / "settings.json"
    try:
        return dict(json.loads(file.read_text())) if file.exists() else {}
    except (ValueError, TypeError):
        raise ValueError(f"{file} is damaged: {ADVICE}") from None


def recorded_data(model):
    """The data that a model was trained on, which the settings beside it name."""
    if source := read_settings(Path(model).parent).get("data"):
        return source
    raise ValueError(f"nothing beside {model} says what it was trained on: add --data")


def check_whole(path):
    """Raise ValueError if a .keras file is damaged, which Keras overlooks on Python 3.13."""
    with zipfile.ZipFile(path) as file:
        if file.testzip():
            raise ValueError("a checksum is wrong")


def load_encoder(path):
    """Load an encoder from a .keras file, running no code in it; ValueError if it is none."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such model; train one with: python nice.py")
    try:
        check_whole(path)
        model = keras.saving.load_model(path, compile=False)
        for name in ("grey_levels", "scaling", "prior"):
            model.get_layer(name)
    except Exception as error:  # a damaged file fails in zipfile's, h5py's or Keras's many ways
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        message = f"{path}: damaged, no NICE model, or one of an earlier version ({reason})"
        raise ValueError(message) from None
    return model
