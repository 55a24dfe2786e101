"""What C++ libraries write to stderr: held back while a backend starts, and told if it fails.

TensorFlow greets on stderr, whatever its log level, at its import and at its first operation.
Among the greetings may be why it found no GPU, or why it cannot start at all.
"""

import atexit
import faulthandler
import os
import re
import signal
import sys
import tempfile

held = None  # a file that holds what file descriptor 2 has got since `hold_back`
watcher = None  # a second process, and a pipe to it that closes when this one ends


def give_back():
    """Give the C++ libraries their stderr back; return what they have said since `hold_back`."""
    global held, watcher
    if held is None:
        return ""
    if watcher:
        child, writing = watcher
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(writing)
    os.dup2(sys.stderr.fileno(), 2)
    held.seek(0)
    text, held, watcher = held.read(), None, None
    return text


def fail(*error):
    """Report an exception that nobody expected, and before it what was held back."""
    sys.stderr.write(give_back())
    sys.__excepthook__(*error)


def watch():
    """Have a second process show what is held back, should this one end before `give_back`.

    A library that finds no way to go on (TensorFlow, on a processor without AVX) says so on
    stderr and aborts. No code of ours runs after that.
    """
    global watcher
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(reading)
        watcher = child, writing
        atexit.register(give_back)
        return
    os.close(writing)
    os.read(reading, 1)  # returns when the other process has ended
    sys.stderr.write(os.pread(held.fileno(), 2**20, 0).decode(errors="replace"))
    os._exit(0)


def hold_back():
    """Hold back what is written to file descriptor 2; Python's own stderr still goes there.

    It is shown if an exception ends the program, or something worse.
    """
    global held
    if sys.stderr is None:  # closed, by the shell's 2>&- or on Windows by pythonw
        return
    held = tempfile.TemporaryFile(mode="w+", errors="replace")
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(held.fileno(), 2)
    sys.excepthook = fail
    faulthandler.enable(sys.stderr)  # a library that aborts ends us in C: say where
    if hasattr(os, "fork"):  # not on Windows
        watch()


def about_gpu(text):
    """The last that the text says about a GPU, without TensorFlow's prefix; "" if nothing."""
    said = [line for line in text.splitlines() if re.search("gpu|cuda|rocm", line, re.I)]
    return said[-1].split("] ")[-1] if said else ""
