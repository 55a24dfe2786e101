"""The layers of NICE: the steps of the flow, their inverse, and the priors.

A flow is a chain of invertible steps. It turns an image x into a code z = f(x) that
follows a simple density, the prior.

The *paper* is NICE's own (arXiv 1410.8516). The *article* is Su Jianlin's on it, whose
network and signs stand here (README, "Licence and references"). Equation numbers are
those of docs/lesson.md.

x enters a step or the flow, y leaves a step, h lies between steps, z is the code. All
are tensors (batch, D), and densities are in nats. All tensors are computed with
`keras.ops`, so the layers run on TensorFlow, JAX and PyTorch.
"""

from support.errors import UserError

import math

import keras
import numpy as np
from keras import ops


class FlowLayer(keras.Layer):
    """One invertible step of the flow. A new kind of step writes these two methods.

    To be saved it also needs a registered name, as the steps below have, and
    `get_config` if it has arguments. A program that loads the model must define the
    step first. A step that needs the shape of images takes it as an argument.

    A step is defined for all real values. The model turns grey levels into values from
    0 to 1, and steps that keep near that unit suit the pictures of sample.py and the
    distances of `Flow.sigma` best.

    Attributes:
        reverses: whether the step reverses the order of values. An image then lies
            upside down, and sample.py turns it back.
    """

    reverses = False

    def call(self, x):
        """Return y and log |det dy/dx|, of shapes (batch, D) and (batch,)."""
        raise NotImplementedError

    def inverse(self, y):
        """Return the x that `call` turns into y."""
        raise NotImplementedError


def chain(functions, x):
    """Call functions one after another, each with the values that the last one gave.

    Args:
        functions: steps, which also give a log-determinant; or what undoes them, which
            gives values alone.
        x: the values to begin with, (batch, D).

    Returns:
        A list of what stands before, between and after the functions, from x on; and
        the sum of the log-determinants (eqs. 10-12), 0 if there are none.
    """
    values = [x]
    log_det = 0.0
    for function in functions:
        result = function(values[-1])
        if isinstance(result, tuple):
            result, step_log_det = result
            log_det = log_det + step_log_det
        values.append(result)
    return values, log_det


class Coupling(FlowLayer):
    """Change one half of the dimensions, by a network `m` of the other half.

    The input is reversed. Its even positions are then x1, its odd positions x2. x1
    passes unchanged, as h1, and what `m` says of it changes x2 to h2. h1 and h2 take
    the even and odd positions of the output.

    Both directions give `m` the half that passed unchanged. So `m` is never inverted,
    and may be any network.

    Without the reversal the same half would pass through every coupling unchanged. It
    swaps even and odd positions only if D is even, so D must be.

    A kind of coupling writes `transform` and `undo`. One that splits otherwise writes
    `call` and `inverse`, too, and sets `reverses` to False if it does not reverse.
    `build` makes `m` for two equal halves.

    Args:
        hidden_layers: number of hidden layers of `m`.
        hidden_units: width of each hidden layer.
        output_activation: of the last layer of `m`: "relu" as in the article, or
            "linear" as in the paper.

    Raises:
        UserError: the number of values is odd.
    """

    reverses = True
    numbers_per_value = 1  # that `m` gives for each value of x2
    output_initializer = "glorot_uniform"  # of the last layer of `m`

    def __init__(
        self, hidden_layers=5, hidden_units=1000, output_activation="relu", **kwargs
    ):
        super().__init__(**kwargs)
        self.hidden_layers = hidden_layers
        self.hidden_units = hidden_units
        self.output_activation = output_activation

    def build(self, input_shape):
        size = input_shape[-1]
        if size % 2:
            raise UserError(
                f"images have {size} values, and couplings need an even number "
                "(reversing an odd number leaves even positions even, so the halves "
                "would not take turns): crop or pad a row"
            )
        half = size // 2
        self.m = keras.Sequential(name="m")
        for i in range(self.hidden_layers):
            hidden = keras.layers.Dense(self.hidden_units, "relu", name=f"hidden_{i}")
            self.m.add(hidden)
        output = keras.layers.Dense(
            self.numbers_per_value * half,
            self.output_activation,
            kernel_initializer=self.output_initializer,
            name="output",
        )
        self.m.add(output)
        self.m.build((None, half))

    def transform(self, x2, m):
        """Return h2 and log |det dh2/dx2|, given what `m` says of x1.

        Args:
            x2: tensor (batch, D / 2).
            m: tensor (batch, numbers_per_value * D / 2).
        """
        raise NotImplementedError

    def undo(self, h2, m):
        """Return the x2 that `transform` turns into h2."""
        raise NotImplementedError

    def call(self, x):
        x1, x2 = split(ops.flip(x, axis=-1))
        h2, log_det = self.transform(x2, self.m(x1))
        return interleave(x1, h2), log_det

    def inverse(self, h):
        h1, h2 = split(h)
        x2 = self.undo(h2, self.m(h1))
        return ops.flip(interleave(h1, x2), axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_layers": self.hidden_layers,
            "hidden_units": self.hidden_units,
            "output_activation": self.output_activation,
        }


def split(x):
    """The even and the odd positions of (batch, D): two halves (batch, D / 2)."""
    return x[:, 0::2], x[:, 1::2]


def interleave(even, odd):
    """Put two halves (batch, D / 2) at the even and the odd positions of (batch, D)."""
    pairs = ops.stack([even, odd], axis=2)
    return ops.reshape(pairs, (-1, 2 * even.shape[1]))


@keras.saving.register_keras_serializable("nice")
class AdditiveCoupling(Coupling):
    """NICE's coupling: shift x2 by m(x1).

        call:       h1 = x1,  h2 = x2 - m(x1)     (eq. 9)
        inverse:    x1 = h1,  x2 = h2 + m(h1)     (eq. 7)

    In the order (x1, x2) the Jacobian of (h1, h2) is triangular, and its diagonal is
    ones. Reversing and interleaving permute values. So log |det| = 0 (eq. 8).

    The encoder subtracts and the decoder adds, the reverse of the paper. If `m` ends in
    a ReLU, each coupling of the decoder only adds. That suits pixels, never negative.

    Args: those of `Coupling`.
    """

    def transform(self, x2, m):
        return x2 - m, ops.zeros_like(x2[:, 0])

    def undo(self, h2, m):
        return h2 + m


@keras.saving.register_keras_serializable("nice")
class DiagonalScaling(FlowLayer):
    """Stretch every dimension by its own trainable factor: z = s * h (eq. 14).

    The Jacobian is diag(s), and its log-determinant is the sum of log s. The layer
    learns log s, so s is always positive.

    The same scaling can be read as a prior of h that is sigma = 1 / s wide in each
    dimension. It is the last step of a flow: `Flow.sigma`, which the mixture measures
    distances by, looks for it there.

    Args:
        learning_rate_multiplier: factor by which log s learns faster than the other
            weights. Adam moves each weight by about one learning rate a step, and log s
            goes from 0 to some 6 where a pixel is always black. So the trained weight
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


# `Flow` and the option --prior know the priors by these names. One of your own has
# `log_prob` and `sample` as above; tests/test_flows.py wants its density and entropy.
PRIORS = {"gaussian": GaussianPrior, "logistic": LogisticPrior}
