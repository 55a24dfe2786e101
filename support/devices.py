"""Devices: name the one that computes, and train on several where Keras can."""

import keras


def describe():
    """The backend and its device, such as "jax on cpu:0"."""
    device = str(keras.ops.zeros(()).device)  # on TensorFlow, "/job:.../device:CPU:0"
    name = device.split("device:")[-1]
    return f"{keras.backend.backend()} on {name}"


def use_all(*batch_sizes):
    """Train data-parallel on several devices: on JAX, if they divide every batch."""
    backend = keras.backend.backend()
    if backend == "torch":  # where Keras lists no devices
        return
    devices = keras.distribution.list_devices()
    count = len(devices)
    if count == 1:
        return
    even = all(size % count == 0 for size in batch_sizes)
    if backend == "jax" and even:
        parallel = keras.distribution.DataParallel(devices=devices)
        keras.distribution.set_distribution(parallel)
    elif backend == "jax":
        sizes = ", ".join(str(size) for size in batch_sizes if size)
        print(f"1 of {count} devices: all are used if they divide batches of {sizes}")
    else:
        print(f"1 of {count} devices: nice.py uses several on JAX only")
