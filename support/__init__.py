"""What a reader of NICE may skip: data, files, pictures, command lines.

Import this before Keras. Its backends read these variables as they start.
"""

import importlib.util
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no news of a missing GPU
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # leave GPU memory to others
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the same, for JAX

backend = os.environ.get("KERAS_BACKEND")
if backend:
    if backend not in ("tensorflow", "jax", "torch"):
        raise SystemExit(
            f"KERAS_BACKEND is {backend!r}: choose tensorflow, jax or torch"
        )
    if not importlib.util.find_spec(backend):
        raise SystemExit(
            f"KERAS_BACKEND is {backend!r}, which is not installed: "
            f"pip install {backend}"
        )
