"""What `keras.ops` has no word for, on each backend.

Compiled training, batches made in time, many calls in a row, and gradients.
"""

import keras


def use_xla():
    """The `jit_compile` of training: XLA on TensorFlow, where Keras wants a GPU for it.

    On two cores a training step then takes three quarters of the time. JAX always uses
    XLA, and for PyTorch Keras knows best.
    """
    if keras.backend.backend() == "tensorflow":
        return True
    return "auto"


def prefetch(batches):
    """This epoch's `nice.Batches` for `fit`; on TensorFlow a tf.data pipeline.

    It makes a batch while the one before is learned. Without it most epochs took 1.6
    times as long (benchmarks/README.md).
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    def read(i):
        x = tf.numpy_function(lambda i: batches[i][0], [i], tf.float32)
        return (tf.ensure_shape(x, (None, *batches.images.shape[1:])),)

    options = tf.data.Options()
    options.autotune.enabled = False  # or many epochs take as long as without
    dataset = tf.data.Dataset.range(len(batches)).map(read)
    return dataset.prefetch(1).with_options(options)


def compiled(model, calls):
    """Compile a model, if so many calls of it repay that. It is called as before.

    A model that is not compiled runs one operation after another, and each bias and
    each ReLU is a pass through memory of its own.

    Args:
        model: a functional Keras model with one input.
        calls: how often it will be called, with batches of one size but for the last.
    """
    if calls < 10:
        return model
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            batch = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
            return tf.function(model, input_signature=[batch])
        case "jax":
            import jax

            call = jax.jit(model.stateless_call)
            # Weights are arguments: inside a compiled function they would be constants.
            trained = [weight.value for weight in model.trainable_variables]
            fixed = [weight.value for weight in model.non_trainable_variables]
            return lambda batch: call(trained, fixed, batch)[0]
        case "torch":
            import torch

            return torch.no_grad()(lambda batch: model(batch))


def gradient(function, x):
    """The gradient of a function of a batch: each row's, of that row's own value.

    Args:
        function: from a tensor (batch, ...) to one value for each row, (batch,).
        x: array or tensor (batch, ...).

    Returns:
        A tensor of the shape of x.
    """
    x = keras.ops.convert_to_tensor(x, "float32")
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                tape.watch(x)
                y = function(x)
            return tape.gradient(y, x)
        case "jax":
            import jax

            return jax.grad(lambda x: function(x).sum())(x)
        case "torch":
            import torch

            x = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(function(x).sum(), x)
            return found
