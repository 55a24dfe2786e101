"""The layers of NICE: noise, coupling, scaling, their inverses, and the priors.

NICE turns an image x into a code z = f(x) that follows a simple density, the prior. Every step
of f is a layer that maps data towards the code in `call`, maps back in `inverse`, and knows the
logarithm of its Jacobian's determinant. A prior closes the chain: it says how likely a code is,
and draws new ones. Once the flow is trained, a `CodeSampler` behind it may draw better ones.

All of it is `keras.ops`, so it runs on TensorFlow, JAX and PyTorch alike. Equation numbers are
the README's. x, h and z are float arrays of shape (batch, D); densities are in nats.
"""

import functools
import math

import keras
import numpy as np
from keras import ops

from support import gaussians


class FlowLayer(keras.Layer):
    """One invertible step of the flow, in float32 whatever Keras's dtype policy.

    Half precision would spoil what makes a flow exact: inverses and sums of many logarithms. Only
    a coupling's network m follows the policy.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)

    def inverse(self, y):
        """Undo `call`."""
        raise NotImplementedError

    def log_determinant(self):
        """log |det of the Jacobian| of `call`, in nats. In NICE it is the same for every x."""
        return 0.0


@keras.saving.register_keras_serializable("nice")
class UniformNoise(FlowLayer):
    """Add noise while training: x + u, u ~ U[low, high). At inference, nothing.

    Pixels take 256 values, and a density can grow without bound on a discrete set. Noise as
    wide as a grey level fills the gaps ("dequantisation"). It is not undone by the inverse.

    Args:
        low, high: the ends of the noise, in the units of the input. Equal ends switch it off.

    Input and output shape: any.

    Raises:
        ValueError: `high` is not at least `low`.
    """

    def __init__(self, low, high, **kwargs):
        super().__init__(**kwargs)
        if not low <= high:
            raise ValueError(f"noise must have high >= low, got {low} and {high}")
        self.low = low
        self.high = high
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, x, training=False):
        return self.add_to(x, self.seed_generator) if training else x

    def add_to(self, x, seed):
        """Add a draw of the noise: the same one for the same integer seed."""
        if self.low == self.high:
            return x
        return x + keras.random.uniform(ops.shape(x), self.low, self.high, "float32", seed)

    def inverse(self, x):
        return x

    def get_config(self):
        return {**super().get_config(), "low": self.low, "high": self.high}


@keras.saving.register_keras_serializable("nice")
class GreyLevels(FlowLayer):
    """Change units, from grey levels to the x of the equations: x = grey level / levels.

    Densities are those of x, as in the article and the paper, so no determinant counts here.

    Args:
        levels: 255 makes white 1; 256 leaves room above white for noise one level wide.

    Input and output shape: any.
    """

    def __init__(self, levels, **kwargs):
        super().__init__(**kwargs)
        self.levels = levels

    def call(self, grey):
        return grey / self.levels

    def inverse(self, x):
        return x * self.levels

    def get_config(self):
        return {**super().get_config(), "levels": self.levels}


@keras.saving.register_keras_serializable("nice")
class AdditiveCoupling(FlowLayer):
    """Shift one half of the dimensions by a network `m` of the other half.

    The input's dimensions are reversed (eq. 13: otherwise the same half would pass through
    every coupling unchanged), split into even positions x1 and odd positions x2, and then

        call:     h1 = x1,  h2 = x2 - m(x1)     (eq. 9)
        inverse:  x1 = h1,  x2 = h2 + m(h1)     (eq. 7)

    Both directions evaluate `m` on the half that passed through unchanged, so `m` is never
    inverted and may be any network. The Jacobian is triangular with ones on the diagonal
    (eq. 8): its log-determinant is 0. The encoder subtracts and the decoder adds, the reverse
    of the paper: with a ReLU at its end m >= 0, and the decoder then leans towards positive
    values, which is what pixels are.

    Args:
        hidden_layers: number of hidden layers in `m`, at least 1.
        hidden_units: width of each hidden layer, at least 1.
        output_activation: activation of `m`'s last layer; "relu" in the article, "linear"
            in the paper.
        output_gain: how large `m`'s last matrix starts, as a multiple of Glorot's uniform
            initialisation. Near 0 the untrained coupling is little more than the reversal.
        dtype: of `m` alone, by default Keras's dtype policy, and saved with the layer. The shift
            is taken away and added in float32.

    Input and output shape: (batch, D), D even.

    Raises:
        ValueError: a size below 1, or a D that is odd or unknown.
    """

    def __init__(
        self,
        hidden_layers=5,
        hidden_units=1000,
        output_activation="relu",
        output_gain=1.0,
        **kwargs,
    ):
        policy = keras.config.dtype_policy()
        super().__init__(**{"dtype": policy, "autocast": False} | kwargs)  # x is not cast
        for name, size in (("hidden_layers", hidden_layers), ("hidden_units", hidden_units)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.hidden_layers = hidden_layers
        self.hidden_units = hidden_units
        self.output_activation = output_activation
        self.output_gain = output_gain

    def build(self, input_shape):
        dimensions = input_shape[-1]
        if dimensions is None or dimensions % 2:
            raise ValueError(
                "the interleaved split needs a known, even number of dimensions, "
                f"got input shape {tuple(input_shape)}"
            )
        half = dimensions // 2
        dense = functools.partial(keras.layers.Dense, dtype=self.dtype_policy)
        hidden = [dense(self.hidden_units, "relu") for _ in range(self.hidden_layers)]
        start = keras.initializers.VarianceScaling(self.output_gain**2, "fan_avg", "uniform")
        last = dense(half, self.output_activation, kernel_initializer=start)
        self.m = keras.Sequential([*hidden, last])
        self.m.build((None, half))

    def _halves(self, x):
        return x[:, 0::2], x[:, 1::2]

    def _interleave(self, x1, x2):
        return ops.reshape(ops.stack([x1, x2], axis=2), (-1, 2 * x1.shape[1]))

    def _shift(self, x1):
        return ops.cast(self.m(x1), "float32")

    def call(self, x):
        x1, x2 = self._halves(ops.flip(x, axis=-1))
        return self._interleave(x1, x2 - self._shift(x1))

    def inverse(self, h):
        h1, h2 = self._halves(h)
        return ops.flip(self._interleave(h1, h2 + self._shift(h1)), axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_layers": self.hidden_layers,
            "hidden_units": self.hidden_units,
            "output_activation": self.output_activation,
            "output_gain": self.output_gain,
        }


@keras.saving.register_keras_serializable("nice")
class DiagonalScaling(FlowLayer):
    """Stretch every dimension by its own trainable factor: z = s * h (eq. 14).

    The Jacobian is diag(s), so the log-determinant is sum(log s). `call` adds its negative to
    the model's loss, which is one half of the objective (eq. 15); the prior adds the other.
    Storing log s keeps s positive and makes the log-determinant a plain sum.

    Read the other way (eqs. 16-17), sigma = 1 / s is the width of the prior in each dimension.
    What a large s stretches on the way to the code, the decoder squeezes: a dimension that the
    data does not use.

    Args:
        speed: how much faster log s learns than other weights. Adam moves every weight by
            about one learning rate a step, whatever its gradient, so the weight kept is
            log s / speed (as in Glow's code).

    Input and output shape: (batch, D).
    """

    def __init__(self, speed=1.0, **kwargs):
        super().__init__(**kwargs)
        self.speed = speed

    def build(self, input_shape):
        self.log_scale_over_speed = self.add_weight(
            name="log_scale_over_speed", shape=(input_shape[-1],), initializer="zeros"
        )

    @property
    def log_scale(self):
        return self.speed * self.log_scale_over_speed

    @property
    def sigma(self):
        """The width 1 / s of each dimension (eqs. 16-17), in the units of h: an array (D,)."""
        return np.exp(-ops.convert_to_numpy(self.log_scale))

    def call(self, h):
        self.add_loss(-self.log_determinant())
        return h * ops.exp(self.log_scale)

    def inverse(self, z):
        return z * ops.exp(-self.log_scale)

    def log_determinant(self):
        return ops.sum(self.log_scale)

    def get_config(self):
        return {**super().get_config(), "speed": self.speed}


@keras.saving.register_keras_serializable("nice")
class Inverse(keras.Layer):
    """Run another layer backwards: `call` is that layer's `inverse`.

    It adds no weights. Because it reads the other layer's variables inside `call`, a decoder
    made of these follows its encoder while the encoder trains. The same expression written
    outside a layer would be frozen into the model as a constant: the decoder would keep the
    first scale for ever, and draw worse and worse digits while the loss falls.

    Args:
        layer: a layer with an `inverse(x)` method.

    Raises:
        ValueError: the layer has no `inverse`.
    """

    def __init__(self, layer, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)
        if not hasattr(layer, "inverse"):
            raise ValueError(f"{layer.name} ({type(layer).__name__}) has no inverse")
        self.layer = layer

    def build(self, input_shape):
        if not self.layer.built:
            self.layer.build(input_shape)

    def call(self, x):
        return self.layer.inverse(x)

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        return cls(layer, **config)


class Prior(keras.Layer):
    """A density of codes, which closes an encoder: it leaves z alone, and judges it.

    `call` adds -log q(z), averaged over the batch, to the model's loss. With the scaling's
    share that is the whole objective, so `fit` needs neither targets nor a loss function.
    """

    omitted = 0.0  # nats per dimension that the loss leaves out, being the same for all weights
    mean, deviation = 0.0, 1.0  # of what it draws; arrays (D,) where dimensions differ
    learns_widths = False  # if True, the scaling before it stays at s = 1

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)

    def build(self, input_shape):
        self.dimensions = input_shape[-1]

    def call(self, z):
        self.add_loss(-ops.mean(self.log_prob(z)) - self.dimensions * self.omitted)
        return z

    def log_prob(self, z):
        """log q(z) of each code, with all constants: nats, shape (batch,)."""
        raise NotImplementedError

    def adapt(self, h):
        """Start well, given rows h of what goes into the scaling, an array (rows, D).

        It may be in half precision, and is read block by block, to need less memory.

        Returns:
            Where log s should start, an array (D,). A prior that learns widths starts its own
            weights instead, and returns zeros.
        """
        raise NotImplementedError

    def sample(self, count, temperature=1.0, seed=0):
        """Draw (count, D) codes as a float32 array, their spread times the temperature."""
        raise NotImplementedError


class BellPrior(Prior):
    """The same bell in every dimension: only the scaling before it learns how wide each is."""

    def slope(self, z):
        """-d log q(z) / dz in each dimension: a NumPy array like z."""
        raise NotImplementedError

    def adapt(self, h):
        """Find the s at which the rows of h are likeliest, as codes s * h.

        There the mean of z * (-d log q(z) / dz) is 1 in each dimension (for a Gaussian: the mean
        of z^2), and every round of the loop brings it nearer.
        """
        log_scale = np.zeros(h.shape[1], "float32")
        for _ in range(20):
            blocks = (some * np.exp(log_scale) for some in gaussians.blocks(h, 200))
            mean = sum(np.sum(z * self.slope(z), axis=0) for z in blocks) / len(h)
            log_scale -= 0.5 * np.log(np.maximum(mean, 1e-30))
            # Without noise, dimensions that are always 0 have no best s; 1,000 is enough for them.
            log_scale = np.minimum(log_scale, math.log(1e3))
        return log_scale


@keras.saving.register_keras_serializable("nice")
class GaussianPrior(BellPrior):
    """The standard normal: log q(z) = -(D/2) log 2 pi - |z|^2 / 2 (eq. 4).

    Its loss leaves out (D/2) log 2 pi, as the article's objective does (eq. 15).
    """

    omitted = 0.5 * math.log(2 * math.pi)

    def log_prob(self, z):
        return -0.5 * ops.sum(ops.square(z), axis=-1) - self.dimensions * self.omitted

    def slope(self, z):
        return z

    def sample(self, count, temperature=1.0, seed=0):
        z = np.random.default_rng(seed).normal(size=(count, self.dimensions))
        return (temperature * z).astype("float32")


@keras.saving.register_keras_serializable("nice")
class LogisticPrior(BellPrior):
    """The standard logistic in each dimension, which has longer tails (paper, section 3.4)."""

    deviation = math.pi / math.sqrt(3)

    def log_prob(self, z):
        return -ops.sum(ops.softplus(z) + ops.softplus(-z), axis=-1)

    def slope(self, z):
        return np.tanh(z / 2)

    def sample(self, count, temperature=1.0, seed=0):
        z = np.random.default_rng(seed).logistic(size=(count, self.dimensions))
        return (temperature * z).astype("float32")


@keras.saving.register_keras_serializable("nice")
class MixturePrior(Prior):
    """A density that is learned: in each dimension i, a mixture of K logistics.

        q(z) = sum_g p_g prod_i sum_k w_gki f_ki(z_i)
        f_ki(t) = (F((t - mean_ki + n/2) / b_ki) - F((t - mean_ki - n/2) / b_ki)) / n

    The paper allows any density that is a product over the dimensions (section 3.4), which this
    is with one group. With more, similar images share a group, and each group has its own
    weights w of the same logistics. F is the logistic distribution function: f is a logistic of
    width b to which noise of width n is added. Near b = 0 it is that noise alone, the density
    of a pixel that is always background, which no bell can follow. The scaling before this
    layer should not be trainable: its s stays 1, as widths are learned here.

    Args:
        components: K.
        groups: number of groups.
        noise: n, the width of a grey level, in the units of z, whatever noise the images get.
        speed: how much faster w, p and b learn than the means, which Adam must move by less than
            a grey level a step.

    Input and output shape: (batch, D).
    """

    learns_widths = True

    def __init__(self, components=32, groups=1, noise=1 / 256, speed=30.0, **kwargs):
        super().__init__(**kwargs)
        self.components = components
        self.groups = groups
        self.noise = noise
        self.speed = speed

    def build(self, input_shape):
        super().build(input_shape)
        weight = functools.partial(self.add_weight, initializer="zeros")
        each = self.components, self.dimensions
        self.means = weight(each, name="means")
        self.log_widths_over_speed = weight(each, name="log_widths_over_speed")
        self.logits_over_speed = weight((self.groups, *each), name="logits_over_speed")
        self.group_logits_over_speed = weight((self.groups,), name="group_logits_over_speed")

    @property
    def widths(self):
        """b, an array (K, D)."""
        return ops.exp(ops.maximum(self.speed * self.log_widths_over_speed, -20.0))

    @property
    def shares(self):
        """w of the logistics in each group, an array (groups, K, D)."""
        return ops.softmax(self.speed * self.logits_over_speed, axis=1)

    @property
    def log_group_shares(self):
        """log p of the groups, an array (groups,)."""
        return ops.log_softmax(self.speed * self.group_logits_over_speed)

    def _arrays(self):
        """What the density is made of, as NumPy arrays: means, b, w and p."""
        tensors = self.means, self.widths, self.shares, ops.exp(self.log_group_shares)
        return map(ops.convert_to_numpy, tensors)

    def _log_logistics(self, z, means, widths):
        """log f of each logistic, in each dimension: (batch, K, D)."""
        centred = (ops.expand_dims(z, axis=1) - means) / widths
        half = self.noise / 2 / widths
        # F(c + h) - F(c - h) = (1 - exp(-2h)) F(h + c) F(h - c): never 1 taken from nearly 1
        logs = ops.log(-ops.expm1(-2 * half)) - math.log(self.noise)
        return logs - ops.softplus(-centred - half) - ops.softplus(centred - half)

    def adapt(self, h, borrowed=20):
        """Start where the rows of h are: half of the logistics narrow, at quantiles, half wide.

        The groups start as k-means finds them. Each is given `borrowed` rows of all of h, so that
        what its own do not show is not impossible.
        """
        narrow = (self.components + 1) // 2
        wide = self.components - narrow
        low, high = (extreme(axis=0).astype("float32") for extreme in (h.min, h.max))
        middles = [(np.arange(count) + 0.5) / max(count, 1) for count in (narrow, wide)]
        columns = (some.astype("float32") for some in np.array_split(h, 16, axis=1))
        quantiles = [np.quantile(some, middles[0], axis=0) for some in columns]
        quantiles = np.concatenate(quantiles, axis=1)
        broad = np.maximum((high - low) / max(wide, 1) / 3, self.noise / 6)
        widths = [np.full_like(quantiles, self.noise / 16), np.tile(broad, (wide, 1))]
        self.means.assign(np.concatenate([quantiles, low + (high - low) * middles[1][:, None]]))
        self.log_widths_over_speed.assign(np.log(np.concatenate(widths)) / self.speed)

        group = gaussians.nearest(h, gaussians.k_means(h, self.groups))
        member = np.eye(self.groups, dtype="float32")[group]
        explained = 1e-3  # rows of each group by each logistic
        for rows in np.array_split(np.arange(len(h)), math.ceil(len(h) / 50)):
            codes = ops.convert_to_tensor(h[rows].astype("float32"))
            logs = self._log_logistics(codes, self.means, self.widths)
            share = ops.softmax(logs, axis=1)
            explained += np.tensordot(member[rows].T, ops.convert_to_numpy(share), 1)
        explained += borrowed * explained.sum(axis=0) / len(h)
        self.logits_over_speed.assign(np.log(explained) / self.speed)
        self.group_logits_over_speed.assign(np.log(member.sum(axis=0) + 1) / self.speed)
        return np.zeros(h.shape[1], "float32")  # the rows are codes as they are

    def log_prob(self, z):
        # A quarter of the dimensions at a time: its arrays, (batch, K, D) and (D, batch, groups),
        # are the largest of a training step.
        quarter = math.ceil(self.dimensions / 4)
        cuts = list(range(quarter, self.dimensions, quarter))
        quarters = [ops.split(x, cuts, axis=-1) for x in (z, self.means, self.widths, self.shares)]
        log_groups = self.log_group_shares + sum(map(self._log_products, *quarters))
        return ops.logsumexp(log_groups, axis=1)

    def _log_products(self, z, means, widths, shares):
        """log prod_i sum_k w_gki f_ki(z_i) of each group, i being these: (batch, groups)."""
        logs = self._log_logistics(z, means, widths)
        largest = ops.stop_gradient(ops.max(logs, axis=1, keepdims=True))
        f = ops.exp(logs - largest) + 1e-30  # an f of 0 would have no logarithm
        log_f = ops.log(ops.einsum("bki,gki->ibg", f, shares))
        return ops.sum(log_f, axis=0) + ops.sum(largest, axis=2)

    @property
    def mean(self):
        means, _, w, p = self._arrays()
        return np.einsum("g,gki,ki->i", p, w, means)

    @property
    def deviation(self):
        means, widths, w, p = self._arrays()
        squares = (means - self.mean) ** 2 + (math.pi * widths) ** 2 / 3 + self.noise**2 / 12
        return np.sqrt(np.einsum("g,gki,ki->i", p, w, squares))

    def sample(self, count, temperature=1.0, seed=0):
        """Draw (count, D) codes; the temperature narrows each group about its own mean."""
        means, widths, w, p = self._arrays()
        rng = np.random.default_rng(seed)
        group = np.searchsorted(np.cumsum(p)[:-1], rng.random(count))
        u = rng.random((count, self.dimensions))
        limits = np.cumsum(w, axis=1)[:, :-1].swapaxes(0, 1)
        chosen = sum(((u > limit[group]).astype(int) for limit in limits), np.zeros(u.shape, int))
        dimension = np.arange(self.dimensions)
        spread = widths[chosen, dimension] * rng.logistic(size=u.shape)
        spread = spread + self.noise * (rng.random(u.shape) - 0.5)
        middle = np.sum(w * means, axis=1)[group]
        z = middle + temperature * (means[chosen, dimension] + spread - middle)
        return z.astype("float32")

    def get_config(self):
        return {
            **super().get_config(),
            "components": self.components,
            "groups": self.groups,
            "noise": self.noise,
            "speed": self.speed,
        }


@keras.saving.register_keras_serializable("nice")
class CodeSampler(keras.Layer):
    """Draw codes like those of training images, to which it is fitted once training is over.

    Codes of real images do not quite follow the prior: their means are not 0, they are
    correlated, and most dimensions carry noise, not digits. Measured in the units of x,
    h = z / s, they vary mostly in a few directions. Gaussians in these are fitted to them by
    expectation maximisation; across all other directions a code stays at its Gaussian's mean.
    (A density found after training: for other models, Ghosh et al., arXiv 1903.12436.)

    It stands behind the prior, leaves z alone, and is no part of the objective: likelihoods are
    the prior's.

    Args:
        components: number of Gaussians.
        directions: number of principal directions in which they are spread, at most D.

    Input and output shape: (batch, D).
    """

    def __init__(self, components=100, directions=120, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.components = components
        self.directions = directions

    def build(self, input_shape):
        weight = functools.partial(self.add_weight, initializer="zeros", trainable=False)
        k, directions, dimensions = self.components, self.directions, input_shape[-1]
        self.sigma = weight((dimensions,), name="sigma")
        self.basis = weight((dimensions, directions), name="basis")
        self.shares = weight((k,), name="shares")
        self.means = weight((k, dimensions), name="means")
        self.roots = weight((k, directions, directions), name="roots")  # of the covariances

    def call(self, z):
        return z

    def fit(self, parts, sigma, for_gaussians=40000, for_directions=10000):
        """Fit to h = z * sigma, where z are codes of training images.

        Args:
            parts: parts(n) gives n rows of h, or all there are, as arrays of some rows each: at
                once they would take more memory than the images.
            sigma: the scaling's, shape (D,).
            for_gaussians, for_directions: how many rows each of the two is found from.
        """
        basis = gaussians.principal_directions(parts(for_directions), self.directions)
        along = (h @ basis for h in parts(for_gaussians))
        shares, along_basis, roots, belonging = gaussians.fit_mixture(
            gaussians.gather(along, for_gaussians, self.directions), self.components
        )
        # The means in all D dimensions; but along the basis those that more rows have given.
        means = gaussians.weighted_means((h, belonging(h @ basis)) for h in parts(for_directions))
        means += (along_basis - means @ basis) @ basis.T
        self.sigma.assign(sigma)
        self.basis.assign(basis)
        self.shares.assign(shares)
        self.means.assign(means)
        self.roots.assign(roots)

    def sample(self, count, temperature=1.0, seed=0):
        """Draw (count, D) codes; the temperature narrows each Gaussian about its own mean."""
        weights = (self.sigma, self.basis, self.shares, self.means, self.roots)
        sigma, basis, shares, means, roots = map(ops.convert_to_numpy, weights)
        rng, shares = np.random.default_rng(seed), shares.astype("float64")
        chosen = rng.choice(self.components, count, p=shares / shares.sum())
        y = temperature * rng.normal(size=(count, self.directions))
        for k in np.unique(chosen):
            y[chosen == k] = y[chosen == k] @ roots[k].T
        return ((means[chosen] + y @ basis.T) / sigma).astype("float32")

    def get_config(self):
        return {
            **super().get_config(),
            "components": self.components,
            "directions": self.directions,
        }
