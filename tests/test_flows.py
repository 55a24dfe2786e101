"""Every flow: density, sampling, inverse, Jacobian, loss, saving; and a new kind of step."""

import math

import keras
import numpy as np
import pytest
from conftest import jacobian, numpy, randomise
from keras import ops

import layers
import nice

MODELS = {name: recipe.model for name, recipe in nice.RECIPES.items()}
MODELS |= {"logistic prior": {"prior": "logistic"}, "one coupling": {"couplings": 1}}


def build(name, shape):
    """A small network of each recipe, with random weights."""
    small = MODELS[name] | {"hidden_layers": 1, "hidden_units": 8}
    return randomise(nice.build_encoder(shape, **small), deviation=0.3 if shape < (6,) else 0.05)


@pytest.mark.parametrize("name", MODELS)
def test_a_density_integrates_to_one(name):
    """Over the plane, in the units of x."""
    encoder = build(name, (2,))
    side = np.linspace(-12, 12, 201)
    levels = encoder.get_layer("grey_levels").levels
    points = levels * np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    nats = nice.log_likelihood(encoder, points, noise=0)
    cell = (side[1] - side[0]) ** 2
    assert np.exp(nats.astype("float64")).sum() * cell == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", MODELS)
def test_samples_follow_the_density(name):
    """The mean of log q over samples is the integral of q log q, up to the error of the mean."""
    encoder = build(name, (2,))
    prior = encoder.get_layer("prior")
    z = prior.sample(20_000)
    assert z.dtype == "float32" and z.shape == (20_000, 2)
    np.testing.assert_array_equal(z, prior.sample(20_000))
    assert not np.array_equal(z, prior.sample(20_000, seed=1))
    entropy = {"GaussianPrior": math.log(2 * math.pi * math.e), "LogisticPrior": 4.0}
    nats = numpy(prior.log_prob(z))
    assert -nats.mean() == pytest.approx(entropy[type(prior).__name__], abs=0.03)
    np.testing.assert_allclose(prior.sample(9, 0.5), 0.5 * prior.sample(9), rtol=1e-6)
    images = numpy(nice.build_decoder(encoder)(z))
    drawn = nice.log_likelihood(encoder, images, noise=0)
    scale = encoder.get_layer("scaling").log_determinant(None)
    np.testing.assert_allclose(drawn, nats + numpy(scale), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(28, 28), (6, 5, 3)])
def test_the_decoder_inverts_the_encoder(name, shape):
    encoder = build(name, shape)
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), dtype="uint8")
    z = encoder.predict(images, verbose=0)
    assert z.shape == (5, math.prod(shape))
    decoded = nice.build_decoder(encoder).predict(z, verbose=0)
    np.testing.assert_allclose(decoded, images, atol=0.01)


@pytest.mark.parametrize("name", MODELS)
def test_the_log_determinant_is_that_of_the_jacobian(name):
    """And the likelihood of one image is eq. 6, put together by hand in float64."""
    encoder, levels = build(name, (4, 2)), MODELS[name].get("levels", 256)
    x = np.random.default_rng(0).uniform(0, 1, 8).astype("float32")
    steps = nice.flow_steps(encoder)[1:]

    def flow(x):
        for step in steps:
            x = step.transform(x)
        return x

    _, expected = np.linalg.slogdet(jacobian(flow, x).astype("float64"))
    claimed = sum(float(numpy(step.log_determinant(x[None]))) for step in steps)
    assert claimed == pytest.approx(expected, abs=1e-4)
    z = numpy(flow(ops.convert_to_tensor(x[None])))[0].astype("float64")
    prior = -np.sum(np.log1p(np.exp(z)) + np.log1p(np.exp(-z)))
    if MODELS[name].get("prior") != "logistic":
        prior = -np.sum(z**2) / 2 - 4 * math.log(2 * math.pi)
    nats = nice.log_likelihood(encoder, levels * x.reshape(1, 4, 2), noise=0)
    assert nats == pytest.approx([prior + expected], abs=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_the_negative_log_likelihood(name):
    encoder = build(name, (4, 2))
    images = np.random.default_rng(0).integers(0, 256, (32, 4, 2), dtype="uint8")
    encoder.compile("adam")
    batches = nice.Batches(images, 32, encoder.get_layer("grey_levels").noise, shuffle=False)
    loss = encoder.evaluate(batches, verbose=0)
    assert loss == pytest.approx(-nice.log_likelihood(encoder, images).mean(), rel=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_encoder_is_the_same(name, tmp_path):
    encoder = build(name, (4, 2))
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 2), dtype="uint8")
    encoder = nice.fit_codes(encoder, images, np.arange(300) % 3)
    encoder.save(tmp_path / "nice.keras")
    loaded = nice.load_encoder(tmp_path / "nice.keras")
    np.testing.assert_array_equal(
        nice.log_likelihood(loaded, images), nice.log_likelihood(encoder, images)
    )
    before, after = encoder.get_layer("sampler"), loaded.get_layer("sampler")
    np.testing.assert_array_equal(after.sample(9, label=2), before.sample(9, label=2))
    for step, again in zip(nice.flow_steps(encoder), nice.flow_steps(loaded), strict=True):
        assert step.get_config() == again.get_config()
    decoder = nice.build_decoder(encoder)
    decoder.save(tmp_path / "decoder.keras")
    again = keras.saving.load_model(tmp_path / "decoder.keras")
    z = before.sample(9)
    np.testing.assert_array_equal(again.predict(z, verbose=0), decoder.predict(z, verbose=0))


def test_the_decoder_follows_training():
    encoder = nice.build_encoder((4, 2), hidden_layers=1, hidden_units=8, scale_speed=10.0)
    decoder = nice.build_decoder(encoder)
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 2), dtype="uint8")
    encoder.compile(keras.optimizers.Adam(0.05))
    encoder.fit(nice.Batches(images, 50), epochs=3, verbose=0)
    assert np.mean(abs(encoder.get_layer("scaling").sigma - 1)) > 0.1
    z = encoder.predict(images, verbose=0)
    np.testing.assert_allclose(decoder.predict(z, verbose=0), images, atol=0.01)


def test_the_couplings_are_those_of_the_equations():
    """Reversed, even positions to m and through, odd ones shifted: eqs. 7, 9 and 13."""
    coupling = layers.AdditiveCoupling(1, 8)
    coupling.build((None, 6))
    randomise(coupling)
    x = np.arange(6, dtype="float32")[None]
    h = numpy(coupling.transform(ops.convert_to_tensor(x.copy())))
    x1, x2 = x[:, ::-1][:, 0::2], x[:, ::-1][:, 1::2]
    m = numpy(coupling.m(ops.convert_to_tensor(x1.copy())))
    assert np.all(m >= 0) and np.any(m > 0)  # it ends in a ReLU
    np.testing.assert_array_equal(h[:, 0::2], x1)
    np.testing.assert_allclose(h[:, 1::2], x2 - m, rtol=1e-6)
    np.testing.assert_allclose(numpy(coupling.inverse(ops.convert_to_tensor(h))), x, atol=1e-6)


def test_four_couplings_move_every_pixel():
    encoder = build("paper", (4, 2))  # its m is linear at the end: no ReLU is 0 by chance
    x = np.random.default_rng(0).uniform(0, 1, 8)

    def flow(x):
        for step in nice.flow_steps(encoder)[1:-1]:
            x = step.transform(x)
        return x

    matrix = jacobian(flow, x)
    assert abs(np.linalg.det(matrix)) == pytest.approx(1, abs=1e-4)
    assert np.all(np.count_nonzero(abs(matrix) > 1e-6, axis=1) > 1)  # no value passes unchanged


def test_the_articles_network():
    encoder = nice.build_encoder((28, 28), **nice.RECIPES["article"].model)
    assert encoder.count_params() == 19_158_352
    assert encoder.get_layer("grey_levels").noise == 0
    small = nice.build_encoder((28, 28), **nice.RECIPES["quick"].model)
    assert small.count_params() == 3_576_352


def test_images_must_have_an_even_number_of_values():
    with pytest.raises(ValueError, match="27 × 27 images have 729 values"):
        nice.build_encoder((27, 27))
    for shape in ((None, 28), ()):
        with pytest.raises(ValueError, match="must be known"):
            nice.build_encoder(shape)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float64"])
def test_a_flow_is_float32_whatever_the_policy(policy, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        encoder = build("digits", (8, 8))
        images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype="uint8")
        decoder = nice.build_decoder(encoder)
        for model in (encoder, decoder):
            assert {str(weight.dtype) for weight in model.weights} == {"float32"}
        z = encoder.predict(images, verbose=0)
        np.testing.assert_allclose(decoder.predict(z, verbose=0), images, atol=0.01)
        encoder.compile("adam")
        encoder.fit(nice.Batches(images, 10), verbose=0)
        encoder.save(tmp_path / "nice.keras")
    finally:
        keras.config.set_dtype_policy(before)
    z = encoder.predict(images, verbose=0)
    again = nice.load_encoder(tmp_path / "nice.keras").predict(images, verbose=0)
    np.testing.assert_allclose(again, z, atol=1e-4)


# --- A new kind of step ----------------------------------------------------------------------


@keras.saving.register_keras_serializable("test")
class Permutation(layers.FlowLayer):
    """A fixed permutation of the values."""

    def transform(self, x):
        return ops.roll(x, 3, axis=-1)

    def inverse(self, y):
        return ops.roll(y, -3, axis=-1)


@keras.saving.register_keras_serializable("test")
class AffineCoupling(layers.FlowLayer):
    """Scale x2 by a function of x1: its log-determinant differs from image to image."""

    def build(self, input_shape):
        self.scale = keras.layers.Dense(input_shape[-1] // 2, "tanh", dtype="float32")
        self.scale.build((None, input_shape[-1] // 2))

    def transform(self, x):
        x1, x2 = ops.split(x, 2, axis=-1)
        return ops.concatenate([x1, x2 * ops.exp(self.scale(x1))], axis=-1)

    def inverse(self, y):
        y1, y2 = ops.split(y, 2, axis=-1)
        return ops.concatenate([y1, y2 * ops.exp(-self.scale(y1))], axis=-1)

    def log_determinant(self, x):
        x1, _ = ops.split(x, 2, axis=-1)
        return ops.sum(self.scale(x1), axis=-1)


def test_a_new_kind_of_step_needs_no_change_elsewhere(tmp_path):
    image = keras.Input((4, 2))
    h = layers.GreyLevels(name="grey_levels")(keras.layers.Reshape((8,))(image))
    h = layers.AdditiveCoupling(1, 8)(AffineCoupling()(Permutation()(h)))
    z = layers.GaussianPrior(name="prior")(layers.DiagonalScaling(name="scaling")(h))
    encoder = randomise(keras.Model(image, z))
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 2), dtype="uint8")

    def flow(x):
        for step in nice.flow_steps(encoder)[1:]:
            x = step.transform(x)
        return x

    x = images[:2].reshape(2, 8) / np.float32(256)
    nats = nice.log_likelihood(encoder, images[:2], noise=0)
    for row, found in zip(x, nats, strict=True):
        _, determinant = np.linalg.slogdet(jacobian(flow, row).astype("float64"))
        prior = numpy(encoder.get_layer("prior").log_prob(flow(ops.convert_to_tensor(row[None]))))
        assert found == pytest.approx(float(prior[0] + determinant), abs=1e-3)

    z = encoder.predict(images, verbose=0)
    decoded = nice.build_decoder(encoder).predict(z, verbose=0)
    np.testing.assert_allclose(decoded, images, atol=0.01)
    encoder.compile(keras.optimizers.Adam(0.01))
    batches = nice.Batches(images, 64, shuffle=False)
    loss = encoder.evaluate(batches, verbose=0)
    assert loss == pytest.approx(-nice.log_likelihood(encoder, images).mean(), rel=1e-4)
    encoder.fit(nice.Batches(images, 64), epochs=20, verbose=0)
    assert encoder.evaluate(batches, verbose=0) < loss - 1
    encoder.save(tmp_path / "new.keras")
    loaded = nice.load_encoder(tmp_path / "new.keras")
    np.testing.assert_array_equal(
        nice.log_likelihood(loaded, images), nice.log_likelihood(encoder, images)
    )
