"""The layers of NICE: the steps of the flow, their inverse, and the priors.

A flow is a chain of invertible steps. It turns an image x into a code z = f(x) that
follows a simple density, the prior.

The *paper* is NICE's own (arXiv 1410.8516). The *article* is Su Jianlin's on it, whose
network and signs stand here (README, "Licence and references"). Equation numbers are
the README's.

x enters a step or the flow, y leaves a step, h lies between steps, z is the code. All
are tensors (batch, D), and densities are in nats. All tensors are computed with
`keras.ops`, so the layers run on TensorFlow, JAX and PyTorch.
"""

import math

import keras
import numpy as np
from keras import ops


class FlowLayer(keras.Layer):
    """One invertible step of the flow. A new kind of step writes these two methods."""

    def call(self, x):
        """Return y and log |det dy/dx|, of shapes (batch, D) and (batch,)."""
        raise NotImplementedError

    def inverse(self, y):
        """Return the x that `call` turns into y."""
        raise NotImplementedError


@keras.saving.register_keras_serializable("nice")
class AdditiveCoupling(FlowLayer):
    """Shift one half of the dimensions by a network `m` of the other half.

    The input is reversed. Its even positions are then x1, its odd positions x2, and

        call:       h1 = x1,  h2 = x2 - m(x1)     (eq. 9)
        inverse:    x1 = h1,  x2 = h2 + m(h1)     (eq. 7)

    h1 and h2 take the even and odd positions of the output. `inverse` undoes the
    reversal last. Both directions give `m` the half that passed unchanged. So `m` is
    never inverted, and may be any network.

    Without the reversal the same half would pass through every coupling unchanged. It
    swaps even and odd positions only if D is even, so D must be.

    With respect to (x1, x2) the Jacobian of (h1, h2) is triangular, and its diagonal is
    ones. Reversing and interleaving permute values. So log |det| = 0 (eq. 8).

    The encoder subtracts and the decoder adds, the reverse of the paper. If `m` ends in
    a ReLU, each step of the decoder only adds. That suits pixels, never negative.

    Args:
        hidden_layers: number of hidden layers of `m`.
        hidden_units: width of each hidden layer.
        output_activation: of the last layer of `m`: "relu" as in the article, or
            "linear" as in the paper.
    """

    def __init__(
        self, hidden_layers=5, hidden_units=1000, output_activation="relu", **kwargs
    ):
        super().__init__(**kwargs)
        self.hidden_layers = hidden_layers
        self.hidden_units = hidden_units
        self.output_activation = output_activation

    def build(self, input_shape):
        half = input_shape[-1] // 2
        self.m = keras.Sequential(name="m")
        for i in range(self.hidden_layers):
            hidden = keras.layers.Dense(self.hidden_units, "relu", name=f"hidden_{i}")
            self.m.add(hidden)
        self.m.add(keras.layers.Dense(half, self.output_activation, name="output"))
        self.m.build((None, half))

    def call(self, x):
        x = ops.flip(x, axis=-1)
        x1 = x[:, 0::2]
        x2 = x[:, 1::2]
        h = interleave(x1, x2 - self.m(x1))
        log_det = ops.zeros_like(x[:, 0])  # (batch,)
        return h, log_det

    def inverse(self, h):
        h1 = h[:, 0::2]
        h2 = h[:, 1::2]
        x = interleave(h1, h2 + self.m(h1))
        return ops.flip(x, axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_layers": self.hidden_layers,
            "hidden_units": self.hidden_units,
            "output_activation": self.output_activation,
        }


def interleave(even, odd):
    """Put two halves (batch, D / 2) at the even and the odd positions of (batch, D)."""
    pairs = ops.stack([even, odd], axis=2)
    return ops.reshape(pairs, (-1, 2 * even.shape[1]))


@keras.saving.register_keras_serializable("nice")
class DiagonalScaling(FlowLayer):
    """Stretch every dimension by its own trainable factor: z = s * h (eq. 14).

    The Jacobian is diag(s), and its log-determinant is the sum of log s. The layer
    learns log s, so s is always positive.

    The same scaling can be read as a prior of h that is sigma = 1 / s wide in each
    dimension.

    Args:
        learning_rate_multiplier: factor by which log s learns faster than the other
            weights. Adam moves each weight by about one learning rate a step, and log s
            goes from 0 to some 7 where a pixel is always black. So the trained weight
            is log s / learning_rate_multiplier, and log s moves that much further.
    """

    def __init__(self, learning_rate_multiplier=1.0, **kwargs):
        super().__init__(**kwargs)
        self.learning_rate_multiplier = learning_rate_multiplier

    def build(self, input_shape):
        self.log_s_over_multiplier = self.add_weight(
            shape=(input_shape[-1],), initializer="zeros", name="log_s_over_multiplier"
        )

    @property
    def log_s(self):
        return self.learning_rate_multiplier * self.log_s_over_multiplier

    @property
    def sigma(self):
        """The width 1 / s of each dimension, in the units of h: a NumPy array (D,)."""
        return np.exp(-ops.convert_to_numpy(self.log_s))

    def call(self, h):
        z = h * ops.exp(self.log_s)
        log_det = ops.zeros_like(h[:, 0]) + ops.sum(self.log_s)
        return z, log_det

    def inverse(self, z):
        return z * ops.exp(-self.log_s)

    def get_config(self):
        return {
            **super().get_config(),
            "learning_rate_multiplier": self.learning_rate_multiplier,
        }


@keras.saving.register_keras_serializable("nice")
class Inverse(keras.layers.Wrapper):
    """Run a step backwards: `call` is that step's `inverse`. It adds no weights.

    A layer reads its weights each time it is called. So a decoder made of these follows
    training.
    """

    def call(self, y):
        return self.layer.inverse(y)


class GaussianPrior:
    """The standard normal density of codes (eq. 4)."""

    def log_prob(self, z):
        """log q(z) = -(D / 2) log 2 pi - |z|^2 / 2, in nats: (batch, D) -> (batch,)."""
        return -0.5 * ops.sum(ops.square(z) + math.log(2 * math.pi), axis=-1)

    def sample(self, count, size, temperature=1.0, seed=0):
        """Draw codes, narrowed by the temperature: a float32 array (count, size)."""
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(count, size))
        return (temperature * z).astype("float32")


class LogisticPrior:
    """The standard logistic density in each dimension (paper, section 3.4).

    Its tails are longer than the Gaussian's.
    """

    def log_prob(self, z):
        """log q(z) = -sum(softplus(z) + softplus(-z)), nats: (batch, D) -> (batch,)."""
        return -ops.sum(ops.softplus(z) + ops.softplus(-z), axis=-1)

    def sample(self, count, size, temperature=1.0, seed=0):
        """Draw codes, narrowed by the temperature: a float32 array (count, size)."""
        rng = np.random.default_rng(seed)
        z = rng.logistic(size=(count, size))
        return (temperature * z).astype("float32")


PRIORS = {"gaussian": GaussianPrior, "logistic": LogisticPrior}
