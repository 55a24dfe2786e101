"""Devices: name the one that computes, and train on several where Keras can."""

import keras


def describe():
    """The backend and its device, such as "jax on cpu:0"."""
    device = str(keras.ops.zeros(()).device).split("device:")[-1]
    return f"{keras.backend.backend()} on {device}"


def use_all(*batch_sizes):
    """Train data-parallel on several devices: on JAX, if every batch divides evenly."""
    jax = keras.backend.backend() == "jax"
    devices = keras.distribution.list_devices() if jax else []
    if len(devices) > 1 and not any(size % len(devices) for size in batch_sizes):
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    elif len(devices) > 1:
        print(f"1 of {len(devices)} devices is used: batches of {batch_sizes} do not divide evenly")
