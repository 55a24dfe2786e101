"""What is kept of the memory that was freed, and what the system gets back."""

import ctypes
import math
import mmap
import sys

import numpy as np


def keep():
    """Have the C library keep what a training step frees, for the next step.

    glibc gives it back to the system, which clears what it hands out anew. That is a third of
    the time of a step on PyTorch, and some of it on TensorFlow.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)  # glibc's only
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: from the heap, if smaller than 32 MiB
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: which does not shrink before 1 GiB is free
        mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads; TensorFlow's used to shrink


def give_back():
    """Have the C library give the system what was freed by now: here no step will want it."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)  # glibc's only


def array(shape, dtype):
    """An array of zeros that the system has back when it is freed, whatever is kept of others.

    In the heap, a few small things in its place would keep the next large array out of it.
    """
    dtype = np.dtype(dtype)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return np.frombuffer(memory, dtype).reshape(shape)
