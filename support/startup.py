"""Start a program quietly, before Keras is imported; losing nothing that a backend says of a GPU.

Only a program calls this. Importing nice, layers or sample changes nothing in your process.
"""

import json
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

chatter = None  # what the backend has written to stderr since `quiet`


def quiet():
    """Hold back what C++ libraries write to stderr (Python's own messages still go there).

    TensorFlow greets on stderr, whatever its log level, at its import and at its first
    operation. Among the greetings may be why it found no GPU: `loud` returns that. Also asks
    the backends to take GPU memory as they need it, not all of it.
    """
    global chatter
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
    chatter = tempfile.TemporaryFile(mode="w+", errors="replace")
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(chatter.fileno(), 2)


def loud():
    """Give the C++ libraries their stderr back; return what they said about a GPU, or ""."""
    global chatter
    if chatter is None:
        return ""
    os.dup2(sys.stderr.fileno(), 2)
    chatter.seek(0)
    said = [line for line in chatter.read().splitlines() if re.search("gpu|cuda|rocm", line, re.I)]
    chatter = None
    return said[0].split("] ")[-1] if said else ""


def backend():
    """The backend that Keras is going to use, found out without importing it."""
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    try:
        configured = json.loads((home / "keras.json").read_text())["backend"]
    except (OSError, ValueError, KeyError):
        configured = "tensorflow"
    return os.environ.get("KERAS_BACKEND") or configured
