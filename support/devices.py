"""Devices: name the one that computes, and train on several where Keras can."""

import keras


def describe():
    """The backend and its device, such as "jax on cpu:0"."""
    return f"{keras.backend.backend()} on " + str(keras.ops.zeros(()).device).split("device:")[-1]


def use_all(*batch_sizes):
    """Train data-parallel on several devices: on JAX, if every batch divides evenly."""
    backend = keras.backend.backend()
    devices = [] if backend == "torch" else keras.distribution.list_devices()
    if len(devices) > 1 and backend == "jax" and not any(n % len(devices) for n in batch_sizes):
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    elif len(devices) > 1:
        print(
            f"1 of {len(devices)} devices: JAX uses all if they divide {batch_sizes} images evenly"
        )
