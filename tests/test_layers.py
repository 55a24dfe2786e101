"""Each layer's inverse against its call, and its log-determinant against autodiff."""

import keras
import numpy as np
import pytest
from conftest import jacobian, randomise

from layers import AdditiveCoupling, DiagonalScaling, Inverse, UniformNoise


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def built(layer, dimensions=6):
    layer.build((None, dimensions))
    return randomise(layer)


LAYERS = {
    "coupling": lambda: built(AdditiveCoupling(2, 8)),
    "linear coupling": lambda: built(AdditiveCoupling(1, 8, "linear")),
    "scaling": lambda: built(DiagonalScaling(factor=3.0)),
    "noise": lambda: built(UniformNoise(0.1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_inverse_undoes_call(name):
    layer, x = LAYERS[name](), keras.ops.convert_to_tensor(numbers(5, 6))
    for y in (layer.inverse(layer(x)), layer(layer.inverse(x)), Inverse(layer)(layer(x))):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(y), keras.ops.convert_to_numpy(x), atol=1e-5
        )


@pytest.mark.parametrize("name", LAYERS)
def test_log_determinant_is_the_jacobians(name):
    layer = LAYERS[name]()
    determinant = np.linalg.det(jacobian(layer, numbers(6)))
    declared = keras.ops.convert_to_numpy(layer.log_scale).sum() if name == "scaling" else 0
    np.testing.assert_allclose(np.log(abs(determinant)), declared, atol=1e-5)


def test_coupling_reverses_splits_interleaved_and_subtracts():
    layer = built(AdditiveCoupling(1, 8))
    x = numbers(3, 6)
    reverse = x[:, ::-1]
    x1, x2 = reverse[:, 0::2], reverse[:, 1::2]
    shift = keras.ops.convert_to_numpy(layer.m(x1))
    h = keras.ops.convert_to_numpy(layer(x))
    assert (shift >= 0).all() and (shift > 0).any()
    np.testing.assert_allclose(h[:, 0::2], x1, atol=1e-6)
    np.testing.assert_allclose(h[:, 1::2], x2 - shift, atol=1e-6)


def test_scaling_adds_its_log_determinant_to_the_loss():
    layer = built(DiagonalScaling())
    layer(numbers(3, 6))
    (loss,) = layer.losses
    np.testing.assert_allclose(
        float(loss), -keras.ops.convert_to_numpy(layer.log_scale).sum(), rtol=1e-5
    )


@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_log_scale_learns_as_many_times_faster(factor):
    x = keras.Input((6,))
    model = keras.Model(x, DiagonalScaling(factor=factor)(x))
    model.compile(keras.optimizers.Adam(1e-3), loss=lambda _, z: keras.ops.sum(z**2, -1))
    model.train_on_batch(0.1 * numbers(50, 6), np.zeros(50))
    log_scale = keras.ops.convert_to_numpy(model.layers[-1].log_scale)
    np.testing.assert_allclose(log_scale, factor * 1e-3, rtol=1e-3)  # Adam's first step: the rate


def test_a_small_output_gain_starts_near_the_reversal():
    x = numbers(4, 6)
    h = AdditiveCoupling(2, 8, "linear", output_gain=1e-3)(x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(h), x[:, ::-1], atol=1e-2)
    assert not np.allclose(keras.ops.convert_to_numpy(h), x[:, ::-1], atol=1e-9)


def test_noise_only_trains():
    layer = UniformNoise(0.25)
    x = np.ones((100, 6), "float32")
    noisy, again = (keras.ops.convert_to_numpy(layer(x, training=True)) for _ in range(2))
    assert (noisy <= 1).all() and (noisy > 0.75 - 1e-6).all()
    assert noisy.min() < 0.76 and noisy.max() > 0.99
    assert (noisy != again).any()
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(x)), x)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_can_be_saved(name, tmp_path):
    layer = LAYERS[name]()
    data, code = keras.Input((6,)), keras.Input((6,))
    models = keras.Model(data, layer(data)), keras.Model(code, Inverse(layer)(code))
    for model in models:
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(
            loaded.predict(numbers(4, 6), verbose=0), model.predict(numbers(4, 6), verbose=0)
        )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AdditiveCoupling().build((None, 7)), "even number"),
        (lambda: AdditiveCoupling().build((None, None)), "even number"),
        (lambda: AdditiveCoupling(hidden_layers=0), "hidden_layers must be at least 1"),
        (lambda: AdditiveCoupling(hidden_units=-3), "hidden_units must be at least 1"),
        (lambda: UniformNoise(-0.1), "width must be at least 0"),
        (lambda: UniformNoise(float("nan")), "width must be at least 0"),
        (lambda: Inverse(keras.layers.Dense(3)), "no inverse"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()
