"""Imported before Keras: what its backends read from the environment."""

import importlib.util
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no news of a missing GPU
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # leave GPU memory to others
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
if backend not in ("tensorflow", "jax", "torch"):
    raise SystemExit(f"KERAS_BACKEND is {backend!r}: choose tensorflow, jax or torch")
if os.environ.get("KERAS_BACKEND") and not importlib.util.find_spec(backend):
    raise SystemExit(f"KERAS_BACKEND is {backend!r}, which is not installed: pip install {backend}")
