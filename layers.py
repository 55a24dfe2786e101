"""The layers of NICE: the steps of the flow, their inverse, priors, and a sampler of codes.

NICE turns an image x into a code z = f(x) that follows a simple density, the prior. Equation
numbers are the README's; x, h and z are arrays (batch, D), densities in nats. It is `keras.ops`
only, for all backends, and Keras saves a layer by the arguments of its `__init__`.
"""

import math

import keras
import numpy as np
from keras import ops


class FlowLayer(keras.Layer):
    """One invertible step of the flow, in float32: subclasses write the next three methods."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs | {"dtype": "float32"})

    def transform(self, x):  # on PyTorch, one named `forward` would replace `call`
        raise NotImplementedError

    def inverse(self, y):
        raise NotImplementedError

    def log_determinant(self, x):
        """log |det dy/dx| of y = transform(x), in nats: a scalar, or an array (batch,)."""
        return 0.0

    def call(self, x):
        # The loss is -log q(x) (eq. 6): every step adds its determinant, the prior the rest.
        self.add_loss(-ops.mean(ops.convert_to_tensor(self.log_determinant(x), "float32")))
        return self.transform(x)


@keras.saving.register_keras_serializable("nice")
class GreyLevels(FlowLayer):
    """x = grey level / levels. It defines x: densities are of x, so no determinant counts here.

    Levels of 256 leave room above white for noise one level wide; 255 make white 1. `noise` is the
    width, in grey levels, of the noise that `Batches` adds; it is saved with the model.
    """

    def __init__(self, levels=256, noise=1.0, **kwargs):
        super().__init__(**kwargs)
        self.levels, self.noise = levels, noise

    def transform(self, grey):
        return grey / self.levels

    def inverse(self, x):
        return x * self.levels


@keras.saving.register_keras_serializable("nice")
class AdditiveCoupling(FlowLayer):
    """Shift one half of the dimensions by a network `m` of the other half (D is even).

    The input is reversed (eq. 13: otherwise the same half would pass through every coupling
    unchanged), split into even positions x1 and odd positions x2, and then

        transform:  h1 = x1,  h2 = x2 - m(x1)     (eq. 9)
        inverse:    x1 = h1,  x2 = h2 + m(h1)     (eq. 7)

    Both evaluate `m` on the half that passed unchanged: `m` is never inverted, and may be any
    network. But for the reversal the Jacobian is triangular with ones on its diagonal, so
    log |det| = 0 (eq. 8). The encoder subtracts and the decoder adds, the reverse of the paper: if
    `m` ends in a ReLU, the decoder leans towards positive values, as pixels are.

    Args:
        hidden_layers, hidden_units: number and width of the hidden layers of `m`.
        output_activation: of `m`'s last layer: "relu" in the article, "linear" in the paper.
    """

    def __init__(self, hidden_layers=5, hidden_units=1000, output_activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.widths, self.output_activation = [hidden_units] * hidden_layers, output_activation

    def build(self, input_shape):
        half = input_shape[-1] // 2
        m = [keras.layers.Dense(width, "relu", dtype="float32") for width in self.widths]
        m += [keras.layers.Dense(half, self.output_activation, dtype="float32")]
        self.m = keras.Sequential(m)
        self.m.dtype_policy = "float32"  # else it would cast its input to the global policy's
        self.m.build((None, half))

    def transform(self, x):
        x = ops.flip(x, axis=-1)
        x1, x2 = x[:, 0::2], x[:, 1::2]
        return ops.reshape(ops.stack([x1, x2 - self.m(x1)], axis=2), (-1, x.shape[1]))

    def inverse(self, h):
        h1, h2 = h[:, 0::2], h[:, 1::2]
        x = ops.reshape(ops.stack([h1, h2 + self.m(h1)], axis=2), (-1, h.shape[1]))
        return ops.flip(x, axis=-1)


@keras.saving.register_keras_serializable("nice")
class DiagonalScaling(FlowLayer):
    """Stretch every dimension by its own trainable factor: z = s * h (eq. 14).

    The Jacobian is diag(s), its log-determinant sum(log s). The weight is log s, so s > 0. Read
    the other way (eqs. 16-17), sigma = 1 / s is the prior's width in each dimension.

    Args:
        speed: factor by which log s learns faster than other weights: Adam moves a weight by about
            one learning rate a step, and log s has far to go. The weight kept is log s / speed.
    """

    def __init__(self, speed=1.0, **kwargs):
        super().__init__(**kwargs)
        self.speed = speed

    def build(self, input_shape):
        self.weight = self.add_weight(
            input_shape[-1:], initializer="zeros", name="log_s_over_speed"
        )

    @property
    def log_scale(self):
        return self.speed * self.weight

    @property
    def sigma(self):
        """The width 1 / s of each dimension, in the units of h: a NumPy array (D,)."""
        return np.exp(-ops.convert_to_numpy(self.log_scale))

    def transform(self, h):
        return h * ops.exp(self.log_scale)

    def inverse(self, z):
        return z * ops.exp(-self.log_scale)

    def log_determinant(self, h):
        return ops.sum(self.log_scale)


@keras.saving.register_keras_serializable("nice")
class Inverse(keras.layers.Wrapper):
    """Run a flow layer backwards: `call` is that layer's `inverse`. It adds no weights.

    It reads the weights inside `call`, so a decoder made of these follows training. Outside a
    layer they would be frozen into the model as constants.
    """

    def call(self, y):
        return self.layer.inverse(y)


class Prior(keras.Layer):
    """A density of codes: subclasses write `log_prob` and `draw`. It passes z on and scores it."""

    def build(self, input_shape):
        self.dimensions = input_shape[-1]

    def call(self, z):
        self.add_loss(-ops.mean(self.log_prob(z)))
        return z

    def log_prob(self, z):
        """log q(z) of each code, with all constants: nats, an array (batch,)."""
        raise NotImplementedError

    def sample(self, count, temperature=1.0, seed=0):
        """Draw codes, their spread times the temperature: a float32 NumPy array (count, D)."""
        z = self.draw(np.random.default_rng(seed), (count, self.dimensions))
        return (temperature * z).astype("float32")


@keras.saving.register_keras_serializable("nice")
class GaussianPrior(Prior):
    """The standard normal: log q(z) = -(D/2) log 2 pi - |z|^2 / 2 (eq. 4)."""

    def log_prob(self, z):
        return -0.5 * ops.sum(ops.square(z) + math.log(2 * math.pi), axis=-1)

    def draw(self, rng, shape):
        return rng.normal(size=shape)


@keras.saving.register_keras_serializable("nice")
class LogisticPrior(Prior):
    """The standard logistic in each dimension, which has longer tails (paper, section 3.4)."""

    def log_prob(self, z):
        return -ops.sum(ops.softplus(z) + ops.softplus(-z), axis=-1)

    def draw(self, rng, shape):
        return rng.logistic(size=shape)


@keras.saving.register_keras_serializable("nice")
class CodeSampler(keras.Layer):
    """A mixture of low-rank Gaussians, fitted to the codes of training images.

    Each label has some *styles*, clusters of its codes: a mean, and `rank` axes in which they vary
    most, as long as they vary. A draw takes a style, then z = mean + temperature * (g_1 axis_1 +
    g_2 axis_2 + ...) with g ~ N(0, 1). `labels` are those of the styles, integers or `None`.
    """

    def __init__(self, labels, rank, **kwargs):
        super().__init__(**kwargs)
        self.labels, self.rank = labels, rank

    def build(self, input_shape):
        styles, size = len(self.labels), input_shape[-1]
        self.shares = self.add_weight((styles,), trainable=False, name="shares")
        self.means = self.add_weight((styles, size), trainable=False, name="means")
        self.axes = self.add_weight((styles, self.rank, size), trainable=False, name="axes")

    def call(self, z):
        return z

    @classmethod
    def fit(cls, z, labels, sigma, styles, rank):
        """Fit to codes z (n, D) of images and their labels (n,), `styles` clusters for each."""
        h, rng = sigma * z, np.random.default_rng(0)  # in z, mere noise weighs as much as a digit
        known = sorted(set(labels.tolist()))
        groups = [(n, rows) for n in known for rows in k_means(h[labels == n], styles, rng)]
        sampler = cls([n for n, _ in groups], rank, dtype="float32", name="sampler")
        sampler.build(z.shape)
        sampler.shares.assign([len(rows) / len(z) for _, rows in groups])
        sampler.means.assign(np.stack([rows.mean(axis=0) for _, rows in groups]) / sigma)
        axes = [principal_axes(rows, rank, rng) for _, rows in groups]
        sampler.axes.assign(np.stack(axes) / sigma)
        return sampler

    def sample(self, count, temperature=1.0, seed=0, label=None):
        """Draw codes, all of one label if it is given: a float32 NumPy array (count, D)."""
        if label is not None and label not in self.labels:
            raise ValueError(f"no label {label}: the model has {sorted(set(self.labels))}")
        shares, means, axes = map(ops.convert_to_numpy, (self.shares, self.means, self.axes))
        p = shares * [label in (None, one) for one in self.labels]
        rng = np.random.default_rng(seed)
        style = rng.choice(len(p), count, p=p / p.sum(dtype="float64"))
        z, g = means[style], temperature * rng.normal(size=(count, self.rank))
        for k in np.unique(style):
            z[style == k] += g[style == k] @ axes[k]
        return z


def k_means(rows, count, rng, rounds=20):
    """Cluster the rows of an array: a list of at most `count` arrays, none of them empty."""
    means = rows[rng.permutation(len(rows))[:count]]
    for _ in range(rounds):
        nearest = np.argmin(np.sum(means**2, axis=1) - 2 * rows @ means.T, axis=1)
        groups = [rows[nearest == k] for k in np.unique(nearest)]
        means = np.stack([group.mean(axis=0) for group in groups])
    return groups


def principal_axes(rows, count, rng, rounds=6):
    """The directions in which rows vary most, as long as their deviation: (at most count, D)."""
    rows = rows - rows.mean(axis=0)
    basis = rng.normal(size=(rows.shape[1], count)).astype("float32")
    for _ in range(rounds):  # subspace iteration: times the covariance, then orthonormal again
        basis, _ = np.linalg.qr(rows.T @ (rows @ basis))
    variances, turn = np.linalg.eigh((rows @ basis).T @ (rows @ basis) / len(rows))
    return (np.sqrt(np.maximum(variances, 0)) * (basis @ turn)).T[::-1]
