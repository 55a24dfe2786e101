"""Every flow: density, sampling, inverse, Jacobian, loss, saving."""

import layers
import nice

import math
import subprocess
import sys
import traceback
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import jacobian, numpy, randomise
from keras import ops
from own_steps import AffineCoupling, Broken, CountedDense, Permutation

NICE = {name: recipe.model for name, recipe in nice.RECIPES.items()}
NICE["logistic prior"] = {"prior": "logistic"}
NICE["one coupling"] = {"couplings": 1}
NICE["scaling alone"] = {"couplings": 0}
OWN = "a reader's own steps"
FLOWS = [*NICE, OWN]


def build(name, shape):
    """A small flow with random weights."""
    if name == OWN:
        coupling = layers.AdditiveCoupling(1, 8)
        steps = [Permutation(), AffineCoupling(), coupling, layers.DiagonalScaling()]
        flow = nice.Flow(shape, steps)
    else:
        small = {**NICE[name], "hidden_layers": 1, "hidden_units": 8}
        flow = nice.build_encoder(shape, **small)
    deviation = 0.3 if math.prod(shape) < 30 else 0.05
    return randomise(flow, deviation=deviation)


def images_of(shape, count):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype="uint8")


def from_x(flow, x):
    """The codes and log-determinants of x (n, D), past the change of units."""
    total = 0.0
    for step in flow.steps:
        x, log_det = step(x)
        total = total + log_det
    return x, total


@pytest.mark.parametrize("name", FLOWS)
def test_a_density_integrates_to_one(name):
    """Over the plane, in the units of x."""
    flow = build(name, (2,))
    side = np.linspace(-12, 12, 201)
    points = flow.levels * np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    nats = flow.log_likelihood(points, noise=0)
    cell = (side[1] - side[0]) ** 2
    assert np.exp(nats.astype("float64")).sum() * cell == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", FLOWS)
def test_samples_follow_the_density(name):
    """The mean of log q over samples is the integral of q log q, up to its error."""
    flow = build(name, (2,))
    prior = flow.prior
    z = prior.sample(20_000, 2)
    assert z.dtype == "float32" and z.shape == (20_000, 2)
    np.testing.assert_array_equal(z, prior.sample(20_000, 2))
    assert not np.array_equal(z, prior.sample(20_000, 2, seed=1))
    entropy = {"gaussian": math.log(2 * math.pi * math.e), "logistic": 4.0}
    nats = numpy(prior.log_prob(z))
    assert -nats.mean() == pytest.approx(entropy[flow.prior_name], abs=0.03)
    half = prior.sample(9, 2, temperature=0.5)
    np.testing.assert_allclose(half, 0.5 * prior.sample(9, 2), rtol=1e-6)
    images = flow.decode(z)
    drawn = flow.log_likelihood(images, noise=0)
    _, log_det = flow(images)
    np.testing.assert_allclose(drawn, nats + numpy(log_det), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("shape", [(28, 28), (6, 5, 3)])
def test_the_decoder_inverts_the_encoder(name, shape):
    flow = build(name, shape)
    images = images_of(shape, 5)
    z = flow.encode(images)
    assert z.shape == (5, math.prod(shape)) and z.dtype == "float32"
    decoded = flow.decode(z)
    assert decoded.dtype == "float32"
    np.testing.assert_allclose(decoded, images, atol=0.01)
    predicted, _ = flow.predict(images, verbose=0)
    np.testing.assert_allclose(predicted, z, atol=1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_the_log_determinant_is_that_of_the_jacobian(name):
    """And the likelihood of one image is eq. 6, put together by hand in float64."""
    flow = build(name, (4, 2))
    x = np.random.default_rng(0).uniform(0, 1, 8).astype("float32")
    matrix = jacobian(lambda x: from_x(flow, x)[0], x)
    _, expected = np.linalg.slogdet(matrix.astype("float64"))
    z, claimed = from_x(flow, ops.convert_to_tensor(x[None]))
    assert numpy(claimed)[0] == pytest.approx(expected, abs=1e-4)
    z = numpy(z)[0].astype("float64")
    if flow.prior_name == "logistic":
        prior = -np.sum(np.log1p(np.exp(z)) + np.log1p(np.exp(-z)))
    else:
        prior = -np.sum(z**2) / 2 - 4 * math.log(2 * math.pi)
    nats = flow.log_likelihood(flow.levels * x.reshape(1, 4, 2), noise=0)
    assert nats == pytest.approx([prior + expected], abs=1e-3)


@pytest.mark.parametrize("name", FLOWS)
def test_the_loss_is_the_negative_log_likelihood(name):
    flow = build(name, (4, 2))
    images = images_of((4, 2), 32)
    flow.compile("adam")
    batches = nice.Batches(images, 32, flow.noise, shuffle=False)
    loss = flow.evaluate(batches, verbose=0)
    nats = flow.log_likelihood(images, noise=flow.noise)
    assert loss == pytest.approx(-nats.mean(), rel=1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_every_flow_learns(name):
    """And its decoder follows."""
    flow = build(name, (4, 2))
    images = images_of((4, 2), 64)
    flow.compile(keras.optimizers.Adam(0.01), jit_compile=nice.use_xla())
    batches = nice.Batches(images, 64, flow.noise)
    losses = flow.fit(batches, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.1
    np.testing.assert_allclose(flow.decode(flow.encode(images)), images, atol=0.01)


@pytest.mark.parametrize("name", FLOWS)
def test_a_saved_flow_is_the_same(name, tmp_path):
    flow = build(name, (4, 2))
    images = images_of((4, 2), 300)
    nice.fit_styles(flow, images, np.arange(300) % 3)
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
    expected = flow.decoder.predict(drawn, verbose=0)
    np.testing.assert_array_equal(decoder.predict(drawn, verbose=0), expected)


def test_the_decoder_follows_training():
    flow = nice.build_encoder(
        (4, 2), hidden_layers=1, hidden_units=8, learning_rate_multiplier=10.0
    )
    images = images_of((4, 2), 200)
    flow.compile(keras.optimizers.Adam(0.05))
    flow.fit(nice.Batches(images, 50), epochs=3, verbose=0)
    assert np.mean(abs(flow.sigma - 1)) > 0.1
    decoded = flow.decoder.predict(flow.encode(images), verbose=0)
    np.testing.assert_allclose(decoded, images, atol=0.01)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX always compiles")
def test_a_step_can_be_run_eagerly():
    """To look into it with a debugger."""
    flow = build("digits", (4, 2))
    batches = nice.Batches(images_of((4, 2), 64), 64)
    flow.compile("adam", run_eagerly=True)
    losses = flow.fit(batches, epochs=2, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))


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


def test_every_dimension_is_changed():
    """By two couplings, as the reversal makes the halves take turns."""
    flow = nice.build_encoder((8,), couplings=2, output_activation="linear")
    x = np.random.default_rng(0).uniform(0, 1, 8).astype("float32")
    couplings = flow.steps[:2]

    def f(x):
        for step in couplings:
            x, _ = step(x)
        return x

    matrix = jacobian(f, x)
    assert abs(np.linalg.det(matrix)) == pytest.approx(1, abs=1e-4)
    assert np.all(np.count_nonzero(abs(matrix) > 1e-6, axis=1) > 1)


def test_the_articles_network():
    flow = nice.build_encoder((28, 28), **nice.RECIPES["article"].model)
    assert flow.count_params() == 19_158_352
    assert flow.noise == 0
    small = nice.build_encoder((28, 28), **nice.RECIPES["quick"].model)
    assert small.count_params() == 3_576_352


def test_images_must_have_an_even_number_of_values():
    with pytest.raises(ValueError, match="27 × 27 images have 729 values"):
        nice.build_encoder((27, 27))
    for shape in ((None, 28), ()):
        with pytest.raises(ValueError, match="must be known"):
            nice.build_encoder(shape)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16", "float64"])
def test_a_flow_is_float32_or_refused(policy, tmp_path):
    flow = build("digits", (4, 2))
    flow.save(tmp_path / "nice.keras")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        with pytest.raises(
            ValueError, match=f"needs float32, and Keras is .* {policy}"
        ):
            nice.build_encoder((4, 2))
        with pytest.raises(ValueError, match="needs float32"):
            nice.load(tmp_path / "nice.keras")
    finally:
        keras.config.set_dtype_policy(before)


# --- A step of a reader's own --------------------------------------------------------


def test_a_step_evaluates_its_network_once_a_pass():
    flow = build(OWN, (4, 2))
    images = images_of((4, 2), 8)
    CountedDense.calls = 0
    flow.log_prob(images)
    assert CountedDense.calls == 1
    z = flow.encode(images)
    CountedDense.calls = 0
    flow.decode(z)
    assert CountedDense.calls == 1


def test_an_own_step_loads_in_a_fresh_process(tmp_path):
    flow = build(OWN, (4, 2))
    flow.save(tmp_path / "own.keras")
    images = images_of((4, 2), 3)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import nice, own_steps, numpy as np;"
        "flow = nice.load('own.keras');"
        "np.save('nats.npy', flow.log_likelihood(np.load('images.npy')))"
    )
    paths = [Path(__file__).parent, Path(nice.__file__).parent]
    lines = [f"import sys; sys.path[:0] = {[str(path) for path in paths]};", code]
    command = [sys.executable, "-c", "".join(lines)]
    subprocess.run(command, cwd=tmp_path, check=True)
    nats = np.load(tmp_path / "nats.npy")
    np.testing.assert_allclose(nats, flow.log_likelihood(images), rtol=1e-6)


def test_an_error_inside_an_own_step_is_seen():
    with pytest.raises(AttributeError, match="there_is_no_such_thing") as error:
        nice.Flow((4, 2), [Broken()])
    seen = "".join(traceback.format_exception(error.value))
    assert "own_steps.py" in seen
