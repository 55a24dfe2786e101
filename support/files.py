"""The output folder of a training run: whole files, one run, its history; and model files."""

import json
import os
import signal
import threading
from pathlib import Path

import keras

ADVICE = "choose another --output, or start over with --fresh"


def replace(path, write):
    """Call `write` on a temporary path, then rename: `path` is whole at any moment, old or new.

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
        message = f"cannot write {path} ({error}): make room there, or choose another folder"
        raise OSError(message) from None
    finally:
        partial.unlink(missing_ok=True)
        if ours:
            signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


def claim(output, settings, fresh=False):
    """Make an output folder ready for a new run, or for going on with the run that it holds.

    Args:
        settings: dict of what decides the run's result: a run with others is refused.
        fresh: start over, whatever is there.

    Raises:
        ValueError: the folder holds another run or a finished one, or is no folder.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: --output names a folder")
    before = {} if fresh else read_settings(output)
    if before.pop("finished", False):
        raise ValueError(f"{output} holds a finished run: {ADVICE}, or go on from it with --start")
    if not before and not fresh and (output / "nice.keras").exists():
        raise ValueError(f"{output} holds a model that is of no run: {ADVICE}")
    for name in before:
        if settings.get(name) != before[name]:
            found = f"{name} {before[name]}, not {settings.get(name)}"
            raise ValueError(f"{output} holds a run with {found}: {ADVICE}")
    old = ("backup.*", "history.csv", "training.*", "samples/epoch_*") if fresh else ()
    for pattern in ("**/partial-*", *old):  # partial files are left by a run that was killed
        for path in output.glob(pattern):
            path.unlink()
    write_settings(output, settings)


def write_settings(output, settings):
    replace(output / "settings.json", lambda path: path.write_text(json.dumps(settings, indent=2)))


def read_settings(output):
    """The settings of the run in a folder, a dict, empty if there are none."""
    file = output / "settings.json"
    try:
        return dict(json.loads(file.read_text())) if file.exists() else {}
    except (ValueError, TypeError):
        raise ValueError(f"{file} is damaged: {ADVICE}") from None


def recorded_data(model):
    """The data that a model was trained on, which the settings beside it name."""
    source = read_settings(Path(model).parent).get("data")
    if not source:
        raise ValueError(f"nothing beside {model} says what it was trained on: add --data")
    return source


def load_model(path, names):
    """Load a .keras file that has layers of these names; ValueError if it cannot be used."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such model; train one with: python nice.py")
    try:
        model = keras.saving.load_model(path, compile=False)
        for name in names:
            model.get_layer(name)
    except Exception as error:  # a damaged file fails in zipfile's, h5py's or Keras's many ways
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        message = f"{path}: damaged, no NICE model, or one of an earlier version ({reason})"
        raise ValueError(message) from None
    return model


def write_history(path, history):
    """Write the rows of a history, a dict an epoch, as a table."""
    rows = [history[0].keys(), *[row.values() for row in history]]
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))


def read_history(path):
    names, *rows = (line.split(",") for line in path.read_text().split())
    return [dict(zip(names, [int(row[0]), *map(float, row[1:])], strict=True)) for row in rows]
