"""The output folder of a training run: whole files, one run at a time, and going on exactly.

A run can be stopped or killed at any moment. Files are replaced whole, and the order of the
images and the noise hang on seed and epoch alone, so that the same command goes on from the last
finished epoch as if nothing had happened.
"""

import contextlib
import json
import os
import signal
import threading

import filelock

from support.errors import Stopped, first_line


@contextlib.contextmanager
def on_signals(handler):
    """Call `handler(signum, frame)` on SIGINT and SIGTERM; only the main thread gets any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    ours = [signum for signum in before if before[signum] is not signal.SIG_IGN]
    try:
        for signum in ours:  # one that is ignored, as a shell has it in the background, stays so
            signal.signal(signum, handler)
        yield
    finally:
        for signum in ours:
            signal.signal(signum, before[signum] or signal.SIG_DFL)  # None: not set from Python


def replace(path, write):
    """Call `write` on another path, then rename: `path` is whole at any moment, old or new.

    A signal waits until then: h5py calls Python from C, where an exception would be lost.
    """
    partial = path.with_name("partial-" + path.name)
    received = []
    try:
        with on_signals(lambda signum, frame: received.append(signum)):
            write(partial)
            flush(partial)  # or after a power cut the new name might stand for an empty file
            os.replace(partial, path)
            with contextlib.suppress(OSError):  # not every system can flush a folder
                flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)
        for signum in received:
            signal.raise_signal(signum)


def flush(path):
    """Have the system write a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stop(signum, frame):
    """Turn a signal into a KeyboardInterrupt with its number."""
    signal.signal(signum, signal.SIG_DFL)  # a second one ends the process at once
    raise KeyboardInterrupt(signum)


@contextlib.contextmanager
def folder(output, settings, fresh):
    """Have an output folder for one run, inside the `with`.

    Args:
        output: the folder's path; it is made, and locked against other runs.
        settings: dict of what decides the run's result; another run's are not mixed with it.
        fresh: whether to start over where another run has been.

    Raises:
        ValueError: another run is at work here, or one with other settings was.
        Stopped: a signal came, or the disk is full; what was finished is kept.
    """
    lock = filelock.FileLock(output / ".lock")
    try:
        (output / "samples").mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)  # the system drops it if the process dies
    except (filelock.Timeout, OSError) as error:
        raise ValueError(f"{output} is in use by another run, or read-only ({error})") from None
    again = f"run the same command {'without --fresh' if fresh else 'again'} to go on"
    try:
        with on_signals(stop):
            start_or_go_on(output, settings, fresh)
            yield
    except KeyboardInterrupt as interrupt:
        begun = (output / "backup.keras").exists()  # the model alone may be an older run's
        best = f"{output / 'nice.keras'} is the best model so far"
        kept = best if begun else "no epoch was finished"
        raise Stopped(f"stopped: {kept}; {again}", 128 + interrupt.args[0]) from None
    except BrokenPipeError:
        raise Stopped(f"stopped: nobody reads what this prints; {again}", 1) from None
    except OSError as error:
        message = f"cannot write to {output}: {first_line(error)}; make room, then {again}"
        raise Stopped(message, 1) from None
    finally:
        lock.release()


def start_or_go_on(output, settings, fresh):
    """Make the folder ready for a new run, or for going on with the run that it holds."""
    file, model = output / "settings.json", output / "nice.keras"
    advice = "choose another --output, or start over with --fresh"
    if fresh:
        if model.exists():
            print(f"--fresh: a new run replaces {model} as soon as its first epoch is done")
        old = ["backup.keras", "history.csv", "training.gif", "training.png"]
        for path in (*(output / name for name in old), *output.glob("samples/*epoch_*.png")):
            path.unlink(missing_ok=True)
    elif file.exists():
        try:
            before = dict(json.loads(file.read_text()))
        except (ValueError, TypeError):
            raise ValueError(f"{file} is damaged: {advice}") from None
        for name, value in before.items():
            if settings.get(name) != value:
                raise ValueError(
                    f"{output} holds a run with {name} {value}, not {settings.get(name)}: {advice}"
                )
        if (output / "training.gif").exists():
            raise ValueError(f"{output} holds a finished run: {advice}")
    elif model.exists():
        raise ValueError(f"{model} exists, and not from a run in this folder: {advice}")
    replace(file, lambda partial: partial.write_text(json.dumps(settings, indent=2)))
