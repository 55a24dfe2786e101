"""Devices: name the one that computes, and train on several where Keras can."""

import keras


def describe():
    """The backend and its device, such as "jax on cpu:0"."""
    device = str(keras.ops.zeros(()).device).split("device:")[-1]
    return f"{keras.backend.backend()} on {device}"


def use_all(*batch_sizes):
    """Train data-parallel on several devices: on JAX, if every batch divides evenly."""
    if (backend := keras.backend.backend()) == "torch":
        import torch

        devices = range(torch.cuda.device_count())
    else:
        devices = keras.distribution.list_devices()
    if len(devices) < 2:
        return
    if backend == "jax" and not any(size % len(devices) for size in batch_sizes):
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    else:
        print(f"1 of {len(devices)} devices is used: JAX uses all for batches that divide evenly")
