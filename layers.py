"""The invertible Keras layers of NICE: coupling, scaling, noise, and their inverses.

NICE turns an image x into a code z = f(x) that follows a simple density. Every layer here
computes its part of f in `call` (data -> code) and undoes it in `inverse` (code -> data).
All of it is `keras.ops`, so it runs on TensorFlow, JAX and PyTorch alike.

Equation numbers follow the README. x and z are float arrays of shape (batch, D).
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable("nice")
class AdditiveCoupling(keras.Layer):
    """Shift one half of the dimensions by a network `m` of the other half.

    The input's dimensions are reversed (eq. 13: otherwise the same half would pass through
    every coupling unchanged), split into even positions x1 and odd positions x2, and then

        call:     h1 = x1,  h2 = x2 - m(x1)     (eq. 9)
        inverse:  x1 = h1,  x2 = h2 + m(h1)     (eq. 7)

    `m` is never inverted, so it may be any network. The Jacobian is triangular with ones on
    the diagonal (eq. 8), so the log-determinant is 0. The encoder subtracts and the decoder
    adds, the reverse of the paper: with a ReLU at its end m >= 0, and the decoder then leans
    towards positive values, which is what pixels are.

    Args:
        hidden_layers: number of hidden layers in `m`, at least 1.
        hidden_units: width of each hidden layer, at least 1.
        output_activation: activation of `m`'s last layer; "relu" in the article, "linear"
            in the paper.
        output_gain: how large `m`'s last matrix starts, as a multiple of Glorot's uniform
            initialisation. Near 0 the untrained coupling changes almost nothing.

    Input and output shape: (batch, D), D even.

    Raises:
        ValueError: a size below 1, an output_gain of 0, or a D that is odd or unknown.
    """

    def __init__(
        self,
        hidden_layers=5,
        hidden_units=1000,
        output_activation="relu",
        output_gain=1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
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
        hidden = [keras.layers.Dense(self.hidden_units, "relu") for _ in range(self.hidden_layers)]
        start = keras.initializers.VarianceScaling(self.output_gain**2, "fan_avg", "uniform")
        last = keras.layers.Dense(half, self.output_activation, kernel_initializer=start)
        self.m = keras.Sequential([*hidden, last])
        self.m.build((None, half))

    def call(self, x):
        x1, x2 = self._split(ops.flip(x, axis=-1))
        return self._join(x1, x2 - self.m(x1))

    def inverse(self, h):
        h1, h2 = self._split(h)
        return ops.flip(self._join(h1, h2 + self.m(h1)), axis=-1)

    def _split(self, x):
        return x[:, 0::2], x[:, 1::2]

    def _join(self, x1, x2):
        return ops.reshape(ops.stack([x1, x2], axis=2), (-1, 2 * x1.shape[1]))

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_layers": self.hidden_layers,
            "hidden_units": self.hidden_units,
            "output_activation": self.output_activation,
            "output_gain": self.output_gain,
        }


@keras.saving.register_keras_serializable("nice")
class DiagonalScaling(keras.Layer):
    """Stretch every dimension by its own trainable factor: z = s * h (eq. 14).

    The Jacobian is diag(s), so the log-determinant is sum(log s). `call` adds its negative
    to the model's loss; together with the negative log prior of z that is the objective
    (eq. 15). Storing log s keeps s positive and makes the log-determinant a plain sum.

    Read the other way (eqs. 16-17), sigma = 1 / s is the width of the prior in each
    dimension: a large s squeezes a dimension that the data does not use.

    Args:
        prior: name of the density that z is trained to follow. It changes nothing here, but
            a model file that carries it knows what to sample from.
        factor: log s is kept divided by this. Adam moves every weight by about one learning
            rate a step, so log s moves by `factor` times that (as in Glow's code).

    Input and output shape: (batch, D).
    """

    def __init__(self, prior="gaussian", factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.prior = prior
        self.factor = factor

    def build(self, input_shape):
        self.weight = self.add_weight(
            name="log_scale", shape=(input_shape[-1],), initializer="zeros"
        )

    @property
    def log_scale(self):
        return self.factor * self.weight

    def call(self, h):
        self.add_loss(-ops.sum(self.log_scale))
        return h * ops.exp(self.log_scale)

    def inverse(self, z):
        return z * ops.exp(-self.log_scale)

    def get_config(self):
        return {**super().get_config(), "prior": self.prior, "factor": self.factor}


@keras.saving.register_keras_serializable("nice")
class UniformNoise(keras.Layer):
    """Subtract noise while training: x - width * u, u ~ U[0, 1). At inference, nothing.

    Pixels take 256 values, and a density can grow without bound on a discrete set. Noise
    fills the gaps. The inverse is the identity: noise is not undone.

    Args:
        width: width of the noise, at least 0; 0 switches it off.

    Input and output shape: (batch, D).

    Raises:
        ValueError: a negative width.
    """

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        if not width >= 0:
            raise ValueError(f"width must be at least 0, got {width}")
        self.width = width
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, x, training=False):
        if not training or self.width == 0:
            return x
        return x - self.width * keras.random.uniform(ops.shape(x), seed=self.seed_generator)

    def inverse(self, x):
        return x

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("nice")
class Inverse(keras.Layer):
    """Run another layer backwards: `call` is that layer's `inverse`.

    It owns no weights. Because it reads the other layer's variables inside `call`, a decoder
    made of these follows its encoder while the encoder trains; the same expression written
    outside a layer would be frozen into the model as a constant.

    Args:
        layer: a layer with an `inverse(x)` method.

    Raises:
        ValueError: the layer has no `inverse`.
    """

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        if not hasattr(layer, "inverse"):
            raise ValueError(f"{layer.name} ({type(layer).__name__}) has no inverse")
        self.layer = layer

    def build(self, input_shape):
        if not self.layer.built:
            self.layer.build(input_shape)

    def call(self, x):
        return self.layer.inverse(x)

    def get_config(self):
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
        }

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        return cls(layer, **config)
