"""Start the programs: quietly, with memory that is kept, and errors in one line.

To be imported before Keras. It does something only if a program of ours is what runs: importing
nice, layers or sample changes nothing in your process.
"""

import functools
import json
import os
import signal
import sys
from pathlib import Path

from support import chatter, memory
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
    memory.keep()
