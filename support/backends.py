"""What differs between TensorFlow, JAX and PyTorch: devices and gradients."""

import keras
from keras import ops

from support import chatter
from support.batches import LARGE


def describe_device():
    """Start the backend, and give stderr back to it; name it and the device it computes on.

    If that is a processor, with what the backend said about a GPU.
    """
    name = keras.backend.backend()
    x = ops.zeros(())
    match name:
        case "tensorflow":
            device = x.device.split("device:")[-1]
        case "jax":
            (device,) = x.devices()
            device = device.device_kind if device.platform != "cpu" else "CPU"
        case _:
            device = str(x.device)
    said = chatter.about_gpu(chatter.give_back())
    return f"{name} on {device}" + (f" ({said})" if said and "cpu" in device.lower() else "")


def check_floatx():
    """See that Keras can average losses: it does that in floatx, whatever the layers' types."""
    floatx = keras.config.floatx()
    if floatx in ("float16", "bfloat16"):
        policy = f"float32, and for faster layers dtype_policy to mixed_{floatx}"
        raise ValueError(f"Keras's floatx is {floatx}, too coarse for losses: set it to {policy}")


def use_all_devices(batch_size, *counts):
    """Train data-parallel if there are several devices, where Keras can: on JAX.

    Args:
        batch_size: images in a training batch; other batches are as large as `Batches` has them.
        counts: of the images in each set, the training set first. Every batch, the last ones
            too, is dealt out evenly.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        devices = range(torch.cuda.device_count())
    else:
        devices = keras.distribution.list_devices()
    if len(devices) < 2:
        return
    if backend != "jax":
        print(f"training on 1 of {len(devices)} devices: KERAS_BACKEND=jax uses all")
        return
    sizes = [batch_size, counts[0] % batch_size, LARGE, *(count % LARGE for count in counts)]
    used = max(n for n in range(1, len(devices) + 1) if not any(size % n for size in sizes))
    if used > 1:
        parallel = keras.distribution.DataParallel(devices=devices[:used])
        keras.distribution.set_distribution(parallel)
    print(f"training on {used} of {len(devices)} devices, as many as divide every batch evenly")


def gradient(f):
    """Make x -> d sum(f(x)) / dx, with the backend's own autodiff."""
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            @tf.function
            def slope(x):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = f(x)
                return tape.gradient(y, x)

        case "jax":
            import jax

            slope = jax.jit(jax.grad(lambda x: f(x).sum()))

        case "torch":
            import torch

            def slope(x):
                x = x.requires_grad_()
                return torch.autograd.grad(f(x).sum(), x)[0]

    return lambda x: ops.convert_to_numpy(slope(ops.convert_to_tensor(x)))
