"""The output folder of a training run: whole files, one run, its history."""

from support import data
from support.errors import UserError

import json
import os
import re
import signal
import threading
import zipfile
import zlib
from pathlib import Path

MODEL = "nice.keras"  # the name of the model in a folder
ADVICE = "choose another --output, or start over with --fresh"


def write_whole(path, write):
    """Call `write` on a temporary path, then rename it: `path` is whole at any moment.

    The temporary name keeps the suffix, as Keras and imageio choose the format by it.

    Ctrl-C waits until then: h5py calls Python from C, where an exception would be lost.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{os.getpid()}-{path.name}")
    interrupts = []

    def wait(number, frame):
        interrupts.append(number)

    # Only the main thread receives signals, and may say what becomes of them.
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:
        before = signal.signal(signal.SIGINT, wait)
    try:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # else it may be empty after a power cut
        os.replace(partial, path)
    except OSError as error:
        message = f"cannot write {path} ({error}): make room, or close what has it open"
        raise OSError(message) from None
    finally:
        partial.unlink(missing_ok=True)
        if in_main_thread:
            signal.signal(signal.SIGINT, before)
    if interrupts:
        raise KeyboardInterrupt


def claim(output, settings, fresh=False):
    """Make a folder ready for a new run, or for going on with the same one.

    Leftovers of a killed process are deleted. With `fresh`, what a run has left is
    deleted, too, but for its model, which becomes nice.previous.keras. Then
    settings.json is written.

    Raises:
        UserError: it is no folder, or `check_same_run` refuses it.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: --output names a folder")
    if not fresh:
        check_same_run(output, settings)
    leftovers = ["partial-[0-9]*", "samples/partial-[0-9]*"]
    if fresh:
        leftovers += ["backup.*.keras", "history.json", "samples/epoch_*.png"]
        leftovers += ["training.png", "training.gif"]
    for pattern in leftovers:
        for path in output.glob(pattern):
            path.unlink()
    model = output / MODEL
    if fresh and model.exists():
        model.replace(output / "nice.previous.keras")
        print(f"the old model is now {output / 'nice.previous.keras'}")
    write_json(output / "settings.json", settings)


def check_same_run(output, settings):
    """Raise UserError if a folder holds a finished run, or one of other settings.

    Where the images came from does not count: files may move, and their checksum says
    whether they are the same.
    """
    before = read_settings(output)
    if before.pop("finished", False):
        raise UserError(
            f"{output} holds a finished run: {ADVICE}, or go on from it with --start"
        )
    if not before and (output / MODEL).exists():
        raise UserError(f"{output} holds a model that is of no run: {ADVICE}")
    differences = {
        "images": "with other images",
        "start": "that started from another model",
    }
    for name, old in before.items():
        if name not in settings:
            raise UserError(
                f"{output} holds a run of another version, with {name} {old}: {ADVICE}"
            )
        new = settings[name]
        if new != old and name != "data":
            difference = differences.get(name, f"with {name} {old}, not {new}")
            raise UserError(f"{output} holds a run {difference}: {ADVICE}")


def write_json(path, value):
    text = json.dumps(value, indent=2)
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_settings(output):
    """The settings of the run in a folder: a dict, empty if there are none."""
    path = output / "settings.json"
    if not path.exists():
        return {}
    try:
        return dict(read_json(path))
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged: {ADVICE}") from None


def check_model(path):
    """Raise UserError if there is no such file."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the model in it, {path / MODEL}")
    if not path.is_file():
        raise UserError(f"{path}: no such model; train one with: python nice.py")


def check_classes(path, error):
    """Raise UserError if an error of Keras is that it does not know a class."""
    unknown = re.search(r"Could not locate class '(\w+)'", str(error))
    if unknown:
        raise UserError(
            f"{path} holds a {unknown[1]}, which is not defined here: only a program "
            "that defines or imports this class can open the model"
        ) from None


def record(source):
    """How settings.json records the file of the images: None for the bundled MNIST.

    That is where the repository is, wherever it may be moved.
    """
    if Path(source) == data.MNIST:
        return None
    return str(Path(source).resolve())


def recorded_data(model):
    """The data that a model was trained on, as the settings beside its file say.

    If the model's path is a link, they are beside the file that it leads to.

    Raises:
        UserError: there is no such model, nothing says what it was trained on, or that
            is gone.
    """
    check_model(model)
    settings = read_settings(Path(model).resolve().parent)
    if "data" not in settings:
        raise UserError(
            f"nothing beside {model} says what it was trained on: add --data"
        )
    if settings["data"] is None:
        return data.MNIST
    source = Path(settings["data"])
    if not source.exists():
        raise UserError(
            f"{source}: no such file, and {model} was trained on it; "
            "if it has moved, say where with --data"
        )
    return source


def checksum(path):
    """A checksum of a file, to tell it from others; None for no file."""
    if path is None:
        return None
    return f"{zlib.crc32(path.read_bytes()):08x}"


def check_whole(path):
    """Raise ValueError if a .keras file is damaged; Python 3.13 may overlook it."""
    with zipfile.ZipFile(path) as file:
        if file.testzip():
            raise ValueError("a checksum is wrong")
