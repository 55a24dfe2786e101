"""Steps of a reader's own, as tests use them: a permutation, and one that scales."""

import layers

import keras
from keras import ops


@keras.saving.register_keras_serializable("own")
class Permutation(layers.FlowLayer):
    """A fixed permutation of the values: they move three places on."""

    def call(self, x):
        return ops.roll(x, 3, axis=-1), ops.zeros_like(x[:, 0])

    def inverse(self, y):
        return ops.roll(y, -3, axis=-1)


@keras.saving.register_keras_serializable("own")
class AffineCoupling(layers.Coupling):
    """Scale x2 by a function of x1: its log-determinant differs from image to image."""

    def build(self, input_shape):
        half = input_shape[-1] // 2
        self.m = CountedDense(half, "tanh", name="m")
        self.m.build((None, half))

    def transform(self, x2, m):
        return x2 * ops.exp(m), ops.sum(m, axis=-1)

    def undo(self, h2, m):
        return h2 * ops.exp(-m)


@keras.saving.register_keras_serializable("own")
class CountedDense(keras.layers.Dense):
    """A layer that counts how often it is called."""

    calls = 0

    def call(self, x):
        CountedDense.calls += 1
        return super().call(x)


@keras.saving.register_keras_serializable("own")
class Broken(layers.FlowLayer):
    """A step with a mistake in it."""

    def call(self, x):
        return self.there_is_no_such_thing(x), ops.zeros_like(x[:, 0])
