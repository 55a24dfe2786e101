"""Start the programs: quietly, with memory that is kept, and errors in one line.

To be imported before Keras. It does something only if a program of ours is what runs: importing
nice, layers or sample changes nothing in your process.
"""

import ctypes
import functools
import json
import os
import signal
import sys
from pathlib import Path

from support import chatter
from support.errors import Stopped, first_line

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("nice.py", "sample.py", "benchmarks/digits.py", "benchmarks/likelihood.py")
PROGRAMS = [ROOT / name for name in NAMES]


def quiet():
    """Have the backends start without greetings, and take GPU memory only as they need it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until training, Ctrl-C simply ends us
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # TensorFlow: no news, only warnings
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if backend() != "tensorflow":
        # Keras would import TensorFlow just to save a model, which takes seconds.
        sys.modules.setdefault("tensorflow", None)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a character
    chatter.hold_back()


def backend():
    """The backend that Keras is going to use, found out without importing it."""
    home = os.path.expanduser("~")
    home = os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")  # as Keras does
    try:
        configuration = Path(os.environ.get("KERAS_HOME", home), "keras.json").read_text()
        configured = json.loads(configuration)["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        configured = "tensorflow"
    return os.environ.get("KERAS_BACKEND") or configured


def keep_memory():
    """Have the C library keep what a training step frees, for the next step.

    glibc gives it back to the system, which clears what it hands out anew. That is a third of
    the time of a step on PyTorch, and some of it on TensorFlow.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)  # glibc's only
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: from the heap, if smaller than 32 MiB
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: which does not shrink before 1 GiB is free
        mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads; TensorFlow's used to shrink


def program(name):
    """Decorate a `main` so that it reports bad input in one line, and returns an exit status.

    0: done; 1: training failed, or could not write; 2: bad input, by SystemExit; 128 + a
    signal's number: stopped.
    """

    def decorate(main):
        @functools.wraps(main)
        def run(argv=None):
            from support.command_line import Parser  # not before: it loads Keras

            try:
                return main(sys.argv[1:] if argv is None else argv) or 0
            except Stopped as stop:
                print(f"{name}: {stop}", file=sys.stderr)
                return stop.status
            except (ValueError, OSError, MemoryError) as error:
                Parser(prog=name).error(first_line(error))

        return run

    return decorate


if Path(getattr(sys.modules["__main__"], "__file__", None) or ".").resolve() in PROGRAMS:
    quiet()
    keep_memory()
