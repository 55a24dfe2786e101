"""Every flow: density, draws, inverse, Jacobian, score, loss, learning, saving.

To have a flow of your own tried, add a line to `FLOWS`.
"""

from support.errors import UserError

import layers
import nice
import sample
from examples import affine

import functools
import math
import traceback

import keras
import numpy as np
import pytest
from conftest import jacobian, numpy, randomise
from keras import ops
from own_steps import AffineCoupling, Broken, CountedDense, Permutation


def recipe(name, **options):
    """A builder of a recipe's flow, made small."""
    small = {"hidden_layers": 1, "hidden_units": 8}
    model = {**nice.RECIPES[name].model, **options, **small}
    return lambda shape: nice.build_encoder(shape, **model)


def affine_flow(shape):
    couplings = [affine.AffineCoupling(1, 8, "linear") for _ in range(2)]
    return nice.Flow(shape, [*couplings, layers.DiagonalScaling()])


def own_flow(shape):
    coupling = layers.AdditiveCoupling(1, 8)
    steps = [Permutation(), AffineCoupling(), coupling, layers.DiagonalScaling()]
    return nice.Flow(shape, steps)


FLOWS = {  # functions from the shape of an image to a small flow
    "digits": recipe("digits"),
    "article": recipe("article"),
    "paper": recipe("paper"),
    "one coupling": recipe("digits", couplings=1),
    "scaling alone": recipe("digits", couplings=0),
    "affine": affine_flow,
    "a reader's own steps": own_flow,
}
LOG_DENSITIES = {  # of each prior in `layers.PRIORS`, by hand, and the entropies
    "gaussian": lambda z: -(z**2) / 2 - math.log(2 * math.pi) / 2,
    "logistic": lambda z: -np.log1p(np.exp(z)) - np.log1p(np.exp(-z)),
}
ENTROPIES = {"gaussian": math.log(2 * math.pi * math.e) / 2, "logistic": 2.0}
EAGER = keras.backend.backend() != "jax"  # JAX always compiles

every_flow = pytest.mark.parametrize("name", FLOWS)


def build(name, shape=(4, 2)):
    """A small flow with random weights."""
    return randomise(FLOWS[name](shape))


shared = functools.cache(build)  # for the tests that leave it as it is


def images_of(shape, count):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype="uint8")


# --- Density and draws ---------------------------------------------------------------


@functools.cache
def nats_on_a_grid(name):
    """log q over the plane, from -12 to 12 in units of x, and the area of a cell."""
    flow = shared(name, (2,))
    side = np.linspace(-12, 12, 201)
    points = flow.levels * np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    nats = numpy(flow.log_prob(points.astype("float32")))
    return nats.astype("float64"), (side[1] - side[0]) ** 2


@every_flow
def test_a_density_integrates_to_one(name):
    nats, cell = nats_on_a_grid(name)
    assert np.exp(nats).sum() * cell == pytest.approx(1, abs=0.01)


@every_flow
def test_draws_follow_the_density(name):
    """By default: the mean of log q over draws is the integral of q log q."""
    flow = shared(name, (2,))
    z = flow.sample_codes(20_000)
    assert z.dtype == "float32" and z.shape == (20_000, 2)
    drawn = flow.decode(z)
    mean = numpy(flow.log_prob(drawn)).mean()
    nats, cell = nats_on_a_grid(name)
    assert mean == pytest.approx(np.sum(np.exp(nats) * nats) * cell, abs=0.05)
    images = flow.sample(20)
    np.testing.assert_array_equal(images, nice.to_pixels(drawn[:20], flow.noise))


@pytest.mark.parametrize("name", layers.PRIORS)
def test_the_entropy_of_a_prior(name):
    """In each dimension; a temperature narrows the draws, and a seed changes them."""
    prior = layers.PRIORS[name]()
    z = prior.sample(20_000, 2)
    nats = numpy(prior.log_prob(z))
    assert -nats.mean() == pytest.approx(2 * ENTROPIES[name], abs=0.03)
    np.testing.assert_array_equal(prior.sample(20_000, 2), z)
    assert not np.allclose(prior.sample(20_000, 2, seed=1), z)
    narrow = prior.sample(20_000, 2, temperature=0.5)
    np.testing.assert_allclose(narrow, 0.5 * z, rtol=1e-6)


# --- The map, its inverse and its derivatives ----------------------------------------


@every_flow
def test_the_decoder_inverts_the_encoder(name):
    shape = (6, 5, 3)
    flow = randomise(FLOWS[name](shape), deviation=0.05)
    images = images_of(shape, 5)
    z = flow.encode(images)
    assert z.shape == (5, math.prod(shape)) and z.dtype == "float32"
    decoded = flow.decode(z)
    assert decoded.dtype == "float32"
    np.testing.assert_allclose(decoded, images, atol=0.01)


@every_flow
def test_the_log_determinant_is_that_of_the_jacobian(name):
    """And the likelihood of one image is eq. 6, put together by hand in float64."""
    flow = shared(name)
    x = np.random.default_rng(0).uniform(0, 1, 8).astype("float32")

    def f(x):
        return flow(flow.levels * ops.reshape(x, (1, 4, 2)))

    matrix = jacobian(lambda x: f(x)[0], x)
    _, expected = np.linalg.slogdet(matrix.astype("float64"))
    z, claimed = f(x)
    assert numpy(claimed)[0] == pytest.approx(expected, abs=1e-4)
    z = numpy(z)[0].astype("float64")
    prior = np.sum(LOG_DENSITIES[flow.prior_name](z))
    nats = flow.log_likelihood(flow.levels * x.reshape(1, 4, 2), noise=0)
    assert nats == pytest.approx([prior + expected], abs=1e-3)


@every_flow
def test_the_score_is_the_slope_of_the_density(name):
    """By finite differences along a random direction, for each image its own."""
    flow = shared(name)
    images = images_of((4, 2), 50).astype("float32")
    direction = np.random.default_rng(1).normal(size=images.shape).astype("float32")
    score = numpy(flow.score(images))
    assert score.shape == images.shape
    slopes = np.sum(score * direction, axis=(1, 2))
    above = numpy(flow.log_prob(images + direction))
    below = numpy(flow.log_prob(images - direction))
    tolerance = 0.02 * abs(slopes).max()
    close = np.isclose(slopes, (above - below) / 2, atol=tolerance)
    assert close.mean() > 0.9  # some images are near a kink of a ReLU


def test_the_couplings_are_those_of_the_equations():
    """Eq. 9: the encoder reverses, splits and subtracts, with m >= 0."""
    coupling = layers.AdditiveCoupling(hidden_layers=1, hidden_units=16)
    coupling.build((None, 8))
    randomise(coupling, deviation=1.0)
    x = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    h = numpy(coupling(x)[0])
    x1 = x[:, ::-1][:, 0::2]
    x2 = x[:, ::-1][:, 1::2]
    m = numpy(coupling.m(x1))
    assert m.min() >= 0 and m.max() > 0.1
    np.testing.assert_allclose(h[:, 0::2], x1, atol=1e-6)
    np.testing.assert_allclose(h[:, 1::2], x2 - m, atol=1e-5)


class InPlace(layers.AdditiveCoupling):
    """A coupling that always shifts the odd positions, and reverses nothing."""

    reverses = False

    def call(self, x):
        x1, x2 = layers.split(x)
        return layers.interleave(x1, x2 - self.m(x1)), ops.zeros_like(x[:, 0])


def test_images_stand_upright_after_couplings_of_any_kind():
    """Where they change nothing, as those of affine.py do at first."""
    kinds = [affine.AffineCoupling, InPlace, layers.AdditiveCoupling, InPlace]
    flow = nice.Flow((4, 2), [kind(1, 8) for kind in kinds])
    for step in flow.steps[1:]:
        step.set_weights([np.zeros_like(weight) for weight in step.get_weights()])
    x = np.random.default_rng(0).random((5, 8), "float32")
    for h in sample.upright(flow, sample.encode_steps(flow, x)):
        np.testing.assert_array_equal(h, x)


# --- Loss, learning, saving ----------------------------------------------------------


@every_flow
def test_every_flow_learns(name):
    """Its loss is -log q(x), and falls; its decoder follows."""
    flow = build(name)
    images = images_of((4, 2), 64)
    flow.compile(keras.optimizers.Adam(0.02), run_eagerly=EAGER)
    batches = nice.Batches(images, 64, flow.noise)
    nats = numpy(flow.log_prob(batches[0][0]))
    losses = flow.fit(batches, epochs=8, verbose=0).history["loss"]
    assert losses[0] == pytest.approx(-nats.mean(), rel=1e-4)
    assert losses[-1] < losses[0] - 0.1
    np.testing.assert_allclose(flow.decode(flow.encode(images)), images, atol=0.01)
    same = nice.Batches(images, 64, flow.noise, shuffle=False)
    loss = flow.evaluate(same, verbose=0)
    assert loss == pytest.approx(-flow.log_likelihood(images).mean(), rel=1e-4)


@every_flow
def test_a_saved_flow_is_the_same(name, tmp_path):
    flow = build(name)
    images = images_of((4, 2), 300)
    nice.fit_mixture(flow, images, np.arange(300) % 3)
    flow.save(tmp_path / "nice.keras")
    loaded = nice.load(tmp_path / "nice.keras")
    nats = flow.log_likelihood(images)
    np.testing.assert_array_equal(loaded.log_likelihood(images), nats)
    drawn = flow.sample_codes(9, label=2)
    np.testing.assert_array_equal(loaded.sample_codes(9, label=2), drawn)
    for step, again in zip(flow.steps, loaded.steps, strict=True):
        assert step.get_config() == again.get_config()
    flow.decoder.save(tmp_path / "decoder.keras")
    decoder = keras.saving.load_model(tmp_path / "decoder.keras")
    np.testing.assert_array_equal(numpy(decoder(drawn)), flow.decode(drawn))


# --- What can be built ---------------------------------------------------------------


def test_the_articles_network():
    flow = nice.build_encoder((28, 28), **nice.RECIPES["article"].model)
    assert flow.count_params() == 19_158_352
    assert flow.noise == 0
    small = nice.build_encoder((28, 28), **nice.RECIPES["quick"].model)
    assert small.count_params() == 3_576_352


def test_images_must_have_an_even_number_of_values():
    """For couplings, also in a flow built by hand; the scaling takes any number."""
    for name in ("digits", "affine"):
        with pytest.raises(UserError, match="images have 9 values") as error:
            FLOWS[name]((3, 3))
        assert "\n" not in str(error.value)
    flow = build("scaling alone", (3, 3))
    images = images_of((3, 3), 4)
    np.testing.assert_allclose(flow.decode(flow.encode(images)), images, atol=0.01)
    assert flow.sample(2).shape == (2, 3, 3)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16", "float64"])
def test_a_flow_is_float32_or_refused(policy, tmp_path):
    shared("scaling alone").save(tmp_path / "nice.keras")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    words = f"needs float32, and Keras is .* {policy}"
    try:
        with pytest.raises(UserError, match=words):
            FLOWS["scaling alone"]((4, 2))
        with pytest.raises(UserError, match=words):
            nice.load(tmp_path / "nice.keras")
    finally:
        keras.config.set_dtype_policy(before)


# --- A step of a reader's own --------------------------------------------------------


def test_a_step_evaluates_its_network_once_a_pass():
    flow = shared("a reader's own steps")
    images = images_of((4, 2), 8)
    CountedDense.calls = 0
    flow.log_prob(images)
    assert CountedDense.calls == 1
    z = flow.encode(images)
    CountedDense.calls = 0
    flow.decode(z)
    assert CountedDense.calls == 1


def test_an_own_step_loads_where_it_is_defined(tmp_path, monkeypatch):
    flow = shared("a reader's own steps")
    path = tmp_path / "own.keras"
    flow.save(path)
    with monkeypatch.context() as patch:
        patch.delitem(keras.saving.get_custom_objects(), "own>AffineCoupling")
        with pytest.raises(UserError, match="AffineCoupling, which is not defined"):
            nice.load(path)
    assert isinstance(nice.load(path).steps[1], AffineCoupling)


def test_an_error_inside_an_own_step_is_seen():
    with pytest.raises(AttributeError, match="there_is_no_such_thing") as error:
        nice.Flow((4, 2), [Broken()])
    seen = "".join(traceback.format_exception(error.value))
    assert "own_steps.py" in seen
