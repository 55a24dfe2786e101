"""How much freed memory the C library keeps, and memory that is never kept. No NumPy."""

import ctypes
import mmap
import sys

kept = False  # whether this process is a program of ours that keeps what it frees


def glibc(name):
    """A function of glibc's; None with another C library."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def keep():
    """Have the C library keep what a training step frees, for the next step.

    glibc gives it back to the system, which clears what it hands out anew. That is a third of
    the time of a step on PyTorch, and some of it on TensorFlow.
    """
    global kept
    mallopt = glibc("mallopt")
    if mallopt:
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: from the heap, if smaller than 32 MiB
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: which does not shrink before 1 GiB is free
        mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads; TensorFlow's used to shrink
        kept = True


def trim():
    """Give the system what is free, if it was kept: for where no training step follows."""
    if kept:
        glibc("malloc_trim")(0)


def block(size):
    """So many bytes, as zeros, which the system has back as soon as they are freed.

    A large array would leave a hole in the heap, and the next would not fit in there, once
    small things are in it.
    """
    private = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
    try:
        return mmap.mmap(-1, size, **{"flags": private} if private else {})
    except OSError as error:
        raise MemoryError(f"no memory for {size:,} bytes") from error
