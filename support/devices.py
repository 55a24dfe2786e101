"""Devices: name the one that computes, and train on several where Keras can."""

import keras


def describe():
    """The backend and its device, such as "jax on cpu"."""
    device = str(keras.ops.zeros(()).device).split("device:")[-1]
    return f"{keras.backend.backend()} on {device}"


def use_all(*batch_sizes):
    """Train data-parallel on several devices: on JAX, if every batch divides evenly."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        devices = range(torch.cuda.device_count())
    else:
        devices = keras.distribution.list_devices()
    even = not any(size % len(devices) for size in batch_sizes) if devices else False
    if len(devices) > 1 and backend == "jax" and even:
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    elif len(devices) > 1:
        print(f"training on 1 of {len(devices)} devices: all are used on JAX, if they divide")
        print(f"batches of {batch_sizes} images evenly")
