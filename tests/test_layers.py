"""Each layer's inverse against its call, its log-determinant against autodiff; the priors."""

import functools
import math

import keras
import numpy as np
import pytest
from conftest import jacobian, randomise

from layers import (
    AdditiveCoupling,
    CodeSampler,
    DiagonalScaling,
    GaussianPrior,
    GreyLevels,
    Inverse,
    LogisticPrior,
    MixturePrior,
    UniformNoise,
)
from support import backends, gaussians

POLICIES = ("float32", "float64", "mixed_float16", "mixed_bfloat16")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def built(layer, dimensions=6):
    layer.build((None, dimensions))
    return randomise(layer)


LAYERS = {
    "coupling": lambda: built(AdditiveCoupling(2, 8)),
    "linear coupling": lambda: built(AdditiveCoupling(1, 8, "linear", output_gain=0.5)),
    "scaling": lambda: built(DiagonalScaling(speed=3.0)),
    "noise": lambda: built(UniformNoise(-0.1, 0.2)),
    "grey levels": lambda: built(GreyLevels(256)),
}
PRIORS = {
    "gaussian": lambda: built(GaussianPrior()),
    "logistic": lambda: built(LogisticPrior()),
    "mixture": lambda: built(MixturePrior(3, noise=0.5, speed=2.0)),
    "grouped": lambda: built(MixturePrior(3, groups=2, noise=0.5, speed=2.0)),
}
BELLS = ("gaussian", "logistic")


@pytest.fixture(params=POLICIES)
def policy(request):
    """Keras's dtype policy, one after the other."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "noise"])
def test_inverse_undoes_call(name):
    layer, x = LAYERS[name](), keras.ops.convert_to_tensor(numbers(5, 6))
    for y in (layer.inverse(layer(x)), layer(layer.inverse(x)), Inverse(layer)(layer(x))):
        np.testing.assert_allclose(array(y), array(x), atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_log_determinant_is_the_jacobians(name):
    """In the units of x: a change of units before it does not count."""
    layer = LAYERS[name]()
    step = functools.partial(layer, training=True) if name == "noise" else layer
    _, nats = np.linalg.slogdet(jacobian(step, numbers(6)))
    units = -6 * math.log(256) if name == "grey levels" else 0
    np.testing.assert_allclose(nats, float(layer.log_determinant()) + units, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_float32_under_every_policy(name, policy):
    layer, x = LAYERS[name](), numbers(5, 6)
    for training in {"training": True}, {}:
        y = layer(x, **training if name == "noise" else {})
        assert keras.backend.standardize_dtype(y.dtype) == "float32"
    np.testing.assert_allclose(array(layer.inverse(y)), x, atol=1e-5)
    assert {weight.dtype for weight in layer.weights if "coupling" not in name} <= {"float32"}


@pytest.mark.parametrize("name", [*PRIORS, "fitted"])
def test_every_prior_is_float32_under_every_policy(name, policy):
    """And so is the sampler; a prior judges codes as it does under float32, large ones too."""
    layer, z = (PRIORS | {"fitted": lambda: built(CodeSampler())})[name](), 100 * numbers(5, 6)
    assert keras.backend.standardize_dtype(layer(z).dtype) == "float32"
    np.testing.assert_array_equal(array(layer(z)), z)
    assert {weight.dtype for weight in layer.weights} <= {"float32"}
    if name in PRIORS:
        keras.config.set_dtype_policy("float32")
        expected = array(PRIORS[name]().log_prob(z))
        np.testing.assert_allclose(array(layer.log_prob(z)), expected, rtol=1e-6)


def test_a_couplings_network_follows_the_policy(policy):
    layer = built(AdditiveCoupling(2, 8))
    computed = {"float64": "float64", "mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}
    assert {dense.compute_dtype for dense in layer.m.layers} == {computed.get(policy, "float32")}
    keras.config.set_dtype_policy("float32")
    again = built(AdditiveCoupling.from_config(layer.get_config()))  # its policy goes with it
    assert [dense.dtype_policy for dense in again.m.layers] == [
        dense.dtype_policy for dense in layer.m.layers
    ]


def test_log_scales_are_summed_in_float32_under_every_policy(policy):
    layer = built(DiagonalScaling(), 784)
    log_scale = numbers(784) + 3.5
    layer.log_scale_over_speed.assign(log_scale)
    total = log_scale.astype("float64").sum()
    layer(numbers(3, 784))
    (loss,) = layer.losses
    assert float(layer.log_determinant()) == pytest.approx(total, rel=1e-6)
    assert float(loss) == pytest.approx(-total, rel=1e-6)


def test_coupling_reverses_splits_interleaved_and_subtracts():
    layer = built(AdditiveCoupling(1, 8))
    x = numbers(3, 6)
    reverse = x[:, ::-1]
    x1, x2 = reverse[:, 0::2], reverse[:, 1::2]
    shift = array(layer.m(x1.copy()))
    h = array(layer(x))
    assert (shift >= 0).all() and (shift > 0).any()
    np.testing.assert_allclose(h[:, 0::2], x1, atol=1e-6)
    np.testing.assert_allclose(h[:, 1::2], x2 - shift, atol=1e-6)


def test_a_linear_coupling_shifts_both_ways():
    layer = built(AdditiveCoupling(1, 8, "linear"))
    shift = array(layer.m(numbers(50, 3)))
    assert (shift < 0).any() and (shift > 0).any()


def test_a_small_output_gain_starts_near_the_reversal():
    x = numbers(4, 6)
    h = array(AdditiveCoupling(2, 8, "linear", output_gain=1e-3)(x))
    np.testing.assert_allclose(h, x[:, ::-1], atol=1e-2)
    assert not np.allclose(h, x[:, ::-1], atol=1e-9)


def test_scaling_multiplies_and_adds_its_log_determinant_to_the_loss():
    layer, h = built(DiagonalScaling()), numbers(3, 6)
    z = array(layer(h))
    (loss,) = layer.losses
    np.testing.assert_allclose(float(loss), -array(layer.log_scale).sum(), rtol=1e-5)
    np.testing.assert_allclose(z, h * np.exp(array(layer.log_scale)), rtol=1e-5)
    np.testing.assert_allclose(z * layer.sigma, h, rtol=1e-5)


@pytest.mark.parametrize("speed", [1.0, 10.0])
def test_log_scale_learns_as_many_times_faster(speed):
    x = keras.Input((6,))
    scaling = DiagonalScaling(speed)
    model = keras.Model(x, GaussianPrior()(scaling(x)))
    model.compile(keras.optimizers.Adam(1e-3))
    model.train_on_batch(0.1 * numbers(50, 6))
    log_scale = array(scaling.log_scale)
    np.testing.assert_allclose(log_scale, speed * 1e-3, rtol=1e-3)  # Adam's first step: the rate


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.25, 0.0)])
def test_noise_fills_its_range_in_training_only(low, high):
    layer = UniformNoise(low, high)
    x = np.full((100, 6), 3.0, "float32")
    noisy, again = (array(layer(x, training=True)) - 3 for _ in range(2))
    width = high - low
    assert noisy.min() >= low - 1e-6 and noisy.max() <= high + 1e-6
    assert noisy.min() < low + 0.03 * width and noisy.max() > high - 0.03 * width
    assert noisy.mean() == pytest.approx((low + high) / 2, abs=0.06 * width)
    assert (noisy != again).any()
    np.testing.assert_array_equal(array(layer(x)), x)
    np.testing.assert_array_equal(array(layer.inverse(x)), x)


def test_noise_can_be_drawn_again_and_switched_off():
    x = keras.ops.convert_to_tensor(numbers(5, 6))
    one, again, other = (array(UniformNoise(0, 1).add_to(x, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).all()
    off = UniformNoise(0.5, 0.5)
    np.testing.assert_array_equal(array(off(x, training=True)), array(x))


def test_grey_levels_divides():
    np.testing.assert_allclose(array(GreyLevels(255)(np.full((1, 2), 51.0, "float32"))), 0.2)


@pytest.mark.parametrize("name", PRIORS)
def test_a_priors_density_integrates_to_one(name):
    made = PRIORS[name]()
    prior = type(made).from_config(made.get_config())
    prior.build((None, 2))
    randomise(prior, seed=1)
    side = np.linspace(-30, 30, 601, dtype="float32")
    points = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    total = np.exp(array(prior.log_prob(points))).sum() * (side[1] - side[0]) ** 2
    assert total == pytest.approx(1, abs=1e-3)


def smeared_logistics(prior, z):
    """The mixture's shares of its groups, and in each of these each dimension's density.

    In double precision, from its weights alone: arrays (groups,) and (groups, rows, D).
    """
    means, widths, logits, groups = (array(weight).astype("float64") for weight in prior.weights)
    ends = [z[:, None] - means + sign * prior.noise / 2 for sign in (1, -1)]
    above, below = (1 / (1 + np.exp(-end / np.exp(prior.speed * widths))) for end in ends)
    shares = np.exp(prior.speed * logits)
    shares /= shares.sum(axis=1, keepdims=True)
    density = (shares[:, None] * (above - below) / prior.noise).sum(axis=2)
    return np.exp(prior.speed * groups) / np.exp(prior.speed * groups).sum(), density


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_passes_codes_on_and_adds_its_share_of_the_loss(name):
    prior, z = PRIORS[name](), 2 * numbers(50, 6)
    np.testing.assert_array_equal(array(prior(z)), z)
    z = z.astype("float64")
    if name == "gaussian":  # eq. 15 leaves out (D/2) log 2 pi
        expected, constant = (z**2 / 2).sum(axis=1), 3 * math.log(2 * math.pi)
    elif name == "logistic":
        expected, constant = (np.logaddexp(0, z) + np.logaddexp(0, -z)).sum(axis=1), 0
    else:
        shares, densities = smeared_logistics(prior, z)
        expected, constant = -np.log(shares @ densities.prod(axis=2)), 0
    (loss,) = prior.losses
    assert float(loss) == pytest.approx(expected.mean(), rel=1e-5)
    log_prob = array(prior.log_prob(z.astype("float32")))
    np.testing.assert_allclose(log_prob, -expected - constant, rtol=1e-5)


@pytest.mark.parametrize("name", BELLS)
def test_a_bells_slope_is_that_of_its_density(name):
    prior, z = PRIORS[name](), 2 * numbers(20, 6)
    slope = backends.gradient(prior.log_prob)(z)
    np.testing.assert_allclose(prior.slope(z), -slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BELLS)
def test_a_priors_codes_follow_its_density(name):
    """Every quantile, by the distribution function of each density."""
    prior = PRIORS[name]()
    z = prior.sample(5000, seed=1)
    assert z.shape == (5000, 6) and z.dtype == np.float32
    assert z.std() == pytest.approx(prior.deviation, rel=0.03)
    below = {
        "gaussian": lambda z: (1 + math.erf(z / math.sqrt(2))) / 2,
        "logistic": lambda z: 1 / (1 + math.exp(-z)),
    }[name]
    for point in (-2, -0.5, 0, 1, 3):
        assert (z < point).mean() == pytest.approx(below(point), abs=0.01)
    np.testing.assert_allclose(prior.sample(5000, 0.5, seed=1), z / 2, rtol=1e-5)
    assert (prior.sample(5000, seed=2) != z).any()
    assert not prior.sample(3, 0.0).any()


@pytest.mark.parametrize("name", ["mixture", "grouped"])
def test_a_mixtures_codes_follow_its_density(name):
    prior = PRIORS[name]()
    z, line = prior.sample(20000, seed=1), np.linspace(-40, 40, 20001)
    assert z.shape == (20000, 6) and z.dtype == np.float32
    np.testing.assert_allclose(z.mean(axis=0), prior.mean, atol=0.03 * z.std())
    np.testing.assert_allclose(z.std(axis=0), prior.deviation, rtol=0.05)
    shares, densities = smeared_logistics(prior, np.tile(line[:, None], (1, 6)))
    below = np.cumsum(np.tensordot(shares, densities, 1), axis=0) * (line[1] - line[0])
    for point in (-2, -0.5, 0, 0.5, 2):
        expected = below[np.searchsorted(line, point)]
        np.testing.assert_allclose((z < point).mean(axis=0), expected, atol=0.015)
    assert (prior.sample(5, seed=2) != prior.sample(5, seed=3)).any()
    cold, half = prior.sample(20000, 0.0, seed=1), prior.sample(20000, 0.5, seed=1)
    assert len(np.unique(cold, axis=0)) == prior.groups  # the middles of the groups
    np.testing.assert_allclose(cold.mean(axis=0), z.mean(axis=0), atol=0.05 * z.std())
    np.testing.assert_allclose(half, (cold + z) / 2, atol=1e-5)


def test_a_mixture_can_be_noise_alone_however_narrow():
    """A pixel that is always background costs exactly the noise's log density."""
    prior = MixturePrior(2)
    prior.build((None, 3))
    prior.log_widths_over_speed.assign(np.full((2, 3), math.log(1e-7) / prior.speed))
    noise = np.random.default_rng(0).uniform(-0.49, 0.49, (50, 3)) / 256
    z = noise.astype("float32")
    np.testing.assert_allclose(array(prior.log_prob(z)), 3 * math.log(256), rtol=1e-5)
    z[:, 1] += 1
    assert (array(prior.log_prob(z)) < -1e4).all() and np.isfinite(array(prior.log_prob(z))).all()


def test_a_mixture_learns_a_spike_beside_a_slope():
    """Background nine times out of ten, else any grey: what no bell can be."""
    rng = np.random.default_rng(0)
    grey = np.where(rng.random((2000, 4)) < 0.9, 0, rng.integers(1, 256, (2000, 4)))
    z = ((grey + rng.random((2000, 4))) / 256).astype("float32")
    truth = 4 * (0.9 * math.log(0.9 * 256) + 0.1 * math.log(0.1 * 256 / 255))
    prior, code = MixturePrior(6), keras.Input((4,))
    model = keras.Model(code, prior(code))
    prior.adapt(z)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 400)))
    start = model.evaluate(z, verbose=0)
    model.fit(z, batch_size=100, epochs=20, verbose=0)
    assert -model.evaluate(z, verbose=0) == pytest.approx(truth, abs=0.3)
    assert start > 1 - truth  # it was not there from the start


def test_groups_see_what_a_product_cannot():
    """Either every pixel is white or none is: with two groups each grey level costs nothing."""
    rng = np.random.default_rng(0)
    grey = np.repeat(255 * rng.integers(0, 2, (1000, 1)), 6, axis=1)
    z = ((grey + rng.random((1000, 6))) / 256).astype("float32")
    nats = {}
    for groups in (1, 2):
        prior, code = MixturePrior(4, groups), keras.Input((6,))
        model = keras.Model(code, prior(code))
        prior.adapt(z)
        model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 200)))
        model.fit(z, batch_size=100, epochs=20, verbose=0)
        nats[groups] = -model.evaluate(z, verbose=0)
    assert nats[1] == pytest.approx(6 * math.log(256 / 2), abs=0.3)
    assert nats[2] == pytest.approx(6 * math.log(256) + math.log(1 / 2), abs=0.3)
    white = prior.sample(500, seed=1) > 0.5
    assert (white.all(axis=1) | ~white.any(axis=1)).mean() > 0.98
    assert 0.4 < white.mean() < 0.6


def test_a_mixture_is_worked_out_a_quarter_of_the_dimensions_at_a_time(monkeypatch):
    """Arrays (batch, groups, D) of all of them would take most of a training step's memory."""
    prior, z, sizes = MixturePrior(4, groups=8), numbers(10, 12), []
    prior.build((None, 12))
    for name in ("exp", "log", "softplus"):
        function = getattr(keras.ops, name)

        def seen(x, function=function):
            sizes.append(math.prod(x.shape))
            return function(x)

        monkeypatch.setattr(keras.ops, name, seen)
    prior.log_prob(z)
    assert max(sizes) == 10 * 8 * 12 // 4


@pytest.mark.parametrize(("components", "groups"), [(1, 1), (2, 1), (5, 1), (2, 60)])
def test_any_number_of_logistics(components, groups):
    prior, z = MixturePrior(components, groups), numbers(50, 6)
    prior.build((None, 6))
    prior.adapt(z)
    assert np.isfinite(array(prior.log_prob(z))).all()
    assert np.isfinite(prior.sample(50)).all()


def test_a_code_sampler_is_no_part_of_the_objective():
    sampler, z = CodeSampler(), numbers(5, 6)
    np.testing.assert_array_equal(array(sampler(z)), z)
    assert not sampler.losses and not sampler.trainable_weights


@pytest.mark.parametrize("name", [*LAYERS, *PRIORS, "fitted"])
def test_layers_can_be_saved(name, tmp_path):
    layer = ({"fitted": lambda: built(CodeSampler())} | LAYERS | PRIORS)[name]()
    for seed, weight in enumerate(layer.weights):
        weight.assign(numbers(*weight.shape, seed=seed))
    data = keras.Input((6,))
    models = [keras.Model(data, layer(data))]
    if name in LAYERS:
        models.append(keras.Model(data, Inverse(layer)(data)))
    for model in models:
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert len(loaded.weights) == len(layer.weights)
        for weight, there in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(array(there), array(weight))
        np.testing.assert_array_equal(
            loaded.predict(numbers(4, 6), verbose=0), model.predict(numbers(4, 6), verbose=0)
        )
        (_, ours) = loaded.layers  # the input, and what was saved
        ours = ours.layer if isinstance(ours, Inverse) else ours
        assert ours.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AdditiveCoupling().build((None, 7)), "even number"),
        (lambda: AdditiveCoupling().build((None, None)), "even number"),
        (lambda: AdditiveCoupling(hidden_layers=0), "hidden_layers must be at least 1"),
        (lambda: AdditiveCoupling(hidden_units=-3), "hidden_units must be at least 1"),
        (lambda: UniformNoise(0, -0.1), "high >= low"),
        (lambda: UniformNoise(0, float("nan")), "high >= low"),
        (lambda: Inverse(keras.layers.Dense(3)), "no inverse"),
        (lambda: Inverse(GaussianPrior()), "no inverse"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_gaussians_have_their_rows_means_and_covariances():
    y = np.concatenate([3 + numbers(2000, 4) @ numbers(4, 4, seed=1), numbers(3000, 4, seed=2)])
    group = np.repeat([0, 1], [2000, 3000])[np.random.default_rng(0).permutation(5000)]
    y = y[np.argsort(np.argsort(group, kind="stable"))]  # mixed, so that blocks hold both
    member, rows = np.eye(2, dtype="float32")[group], iter([0, 2000, 4000])

    def belonging(some):
        start = next(rows)
        return member[start : start + len(some)]

    shares, means, roots = gaussians.fit_gaussians(y, 2, belonging, borrowed=0)
    np.testing.assert_allclose(shares, [0.4, 0.6], rtol=1e-6)
    for k in range(2):
        np.testing.assert_allclose(means[k], y[group == k].mean(axis=0), atol=1e-4)
        expected = np.cov(y[group == k], rowvar=False, bias=True)
        np.testing.assert_allclose(roots[k] @ roots[k].T, expected, atol=1e-3)
        assert not np.triu(roots[k], 1).any()


@pytest.mark.parametrize(("rows", "copies"), [(105, 1), (120, 1), (3, 100)])
def test_fewer_rows_than_directions_have_gaussians_too(rows, copies):
    h = np.tile(numbers(rows, 200), (copies, 1))
    shares, means, roots, belonging = gaussians.fit_mixture(h[:, :120], max(1, len(h) // 50))
    assert np.isfinite(roots).all() and np.isfinite(means).all()
    np.testing.assert_allclose(belonging(h[:50, :120]).sum(axis=1), 1, atol=1e-5)


def test_principal_directions_of_wide_rows_are_found_without_a_square_matrix():
    h = numbers(80, 50) * np.linspace(1, 9, 50, dtype="float32")
    expected = gaussians.principal_directions([h], 3)
    parts = [*np.split(h, 5), 100 + h]  # of which the sixth is not looked at
    basis = gaussians.principal_directions(parts, 3, wide=10)
    assert basis.shape == (50, 3) and basis.dtype == np.float32
    np.testing.assert_allclose(abs(basis.T @ expected), np.eye(3), atol=1e-3)
    few = gaussians.principal_directions([h[:4]], 6, wide=10)
    assert few.shape == (50, 6) and not few[:, 4:].any()
