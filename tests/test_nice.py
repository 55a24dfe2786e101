"""The model, its density, its training, the output folder and the command line."""

import ast
import csv
import dataclasses
import graphlib
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import types
import zipfile
from importlib.machinery import PathFinder
from pathlib import Path, PureWindowsPath

import imageio.v3 as imageio
import keras
import numpy as np
import pytest
from conftest import SMALL, jacobian, randomise, train

import nice
import sample
from layers import CodeSampler, FlowLayer, UniformNoise
from support import (
    backends,
    chatter,
    command_line,
    data,
    history,
    memory,
    pictures,
    runs,
    startup,
)
from support.batches import Batches

ROOT = Path(nice.__file__).parent
POLICIES = ("float32", "float64", "mixed_float16", "mixed_bfloat16")
BELLS = ("gaussian", "logistic")  # priors that are the same in every dimension, and learn nothing


def small(**changes):
    """A recipe for a small network, without noise or a faster log s unless they are asked for."""
    recipe = nice.Recipe(couplings=3, hidden_layers=2, hidden_units=16, batch_size=50)
    recipe = dataclasses.replace(recipe, scale_speed=1.0, noise=0.0)
    return dataclasses.replace(recipe, **changes)


def small_encoder(image_shape=(28, 28), **changes):
    return nice.build_encoder(image_shape, small(**changes))


def grey(*shape, seed=0):
    """Random images in grey levels, as floats."""
    return 255 * np.random.default_rng(seed).random(shape, dtype="float32")


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def everything(images, batch_size=50, noise=None):
    return Batches(images, np.arange(len(images)), batch_size, noise)


def program(text, *arguments, **environment):
    """Run Python text in a process of its own, in the repository's folder."""
    return subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def keras_setting():
    """Set a part of Keras's configuration for one test: keras_setting(name, value)."""
    before = []

    def set_to(name, value):
        before.append((name, getattr(keras.config, name)()))
        getattr(keras.config, f"set_{name}")(value)

    yield set_to
    for name, value in reversed(before):
        getattr(keras.config, f"set_{name}")(value)


# --- The model -------------------------------------------------------------------------------


def test_the_articles_network():
    encoder = nice.build_encoder((28, 28), nice.RECIPES["article"])
    assert sum(math.prod(w.shape) for w in encoder.trainable_weights) == 19_158_352
    decoder = nice.build_decoder(encoder)
    assert {id(w) for w in decoder.trainable_weights} == {id(w) for w in encoder.trainable_weights}
    activations = {encoder.get_layer(f"coupling_{i}").output_activation for i in (1, 2, 3, 4)}
    assert activations == {"relu"} and encoder.get_layer("grey_levels").levels == 255
    assert encoder.get_layer("scaling").speed == 1  # Adam's plain steps, as for other weights


@pytest.mark.parametrize("shape", [(28, 28), (4, 6, 3), (2,)])
def test_decoder_inverts_encoder(shape):
    encoder = randomise(small_encoder(shape, noise=0.1), deviation=0.1)
    x = grey(20, *shape)
    images = array(nice.build_decoder(encoder)(encoder(x)))
    assert images.shape == x.shape
    np.testing.assert_allclose(images, x, atol=2e-3)


def test_pixels_keep_their_order_where_keras_puts_channels_first(keras_setting):
    x = grey(5, 4, 6, 3)
    encoder = randomise(small_encoder((4, 6, 3)), deviation=0.1)
    codes = array(encoder(x))
    keras_setting("image_data_format", "channels_first")
    again = small_encoder((4, 6, 3))
    again.set_weights(encoder.get_weights())
    np.testing.assert_allclose(array(again(x)), codes, atol=1e-5)
    np.testing.assert_allclose(array(nice.build_decoder(again)(codes)), x, atol=2e-3)


def test_decoder_follows_training():
    encoder = small_encoder((4,), scale_speed=10.0)
    before = nice.build_decoder(encoder)
    z = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    start = before.predict(z, verbose=0)  # compiled with the first scale
    encoder.compile(keras.optimizers.Adam(0.01))
    encoder.fit(grey(64, 4), epochs=3, verbose=0)
    trained = before.predict(z, verbose=0)
    again = nice.build_decoder(encoder)
    np.testing.assert_allclose(trained, array(again(z)), rtol=1e-5, atol=1e-3)
    assert abs(trained - start).max() > 1


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy(policy, keras_setting, tmp_path):
    """The flow stays in float32, so that its inverse and its determinant stay what they are."""
    keras_setting("dtype_policy", policy)
    recipe = small(couplings=2, hidden_layers=1, noise=1 / 256)
    encoder = randomise(nice.build_encoder((6,), recipe), deviation=0.2)
    x, half = grey(50, 6), policy.startswith("mixed")
    z = encoder(x)
    assert keras.backend.standardize_dtype(z.dtype) == "float32"
    images = array(nice.build_decoder(encoder)(z))
    np.testing.assert_allclose(images, x, atol=0.5 if half else 1e-3)

    _, nats = np.linalg.slogdet(jacobian(encoder, grey(6)))
    log_scale = array(encoder.get_layer("scaling").log_scale).astype("float64").sum()
    declared = sum(
        float(layer.log_determinant()) for layer in encoder.layers if isinstance(layer, FlowLayer)
    )
    assert declared == pytest.approx(log_scale, rel=1e-6)
    assert nats == pytest.approx(declared - 6 * math.log(256), abs=0.01 if half else 1e-4)
    plain = nice.log_likelihood(encoder, x, UniformNoise(0, 0))
    density = plain - array(encoder.get_layer("prior").log_prob(z))
    np.testing.assert_allclose(density, log_scale, atol=0.01 if half else 1e-4)

    noisy = array(encoder(x, training=True))
    assert noisy.dtype == np.float32 and 0 < abs(noisy - array(z)).max() < 1
    encoder.save(tmp_path / "nice.keras")
    keras_setting("dtype_policy", "float32")  # the file keeps m's policy, whatever the reader's
    loaded = nice.load_encoder(tmp_path / "nice.keras")
    np.testing.assert_array_equal(array(loaded(x)), array(z))


# --- Likelihood ------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", nice.PRIORS)
def test_log_determinant_is_the_jacobians(prior):
    """The Jacobian of x -> z: the change from grey levels to x stands before it."""
    encoder = randomise(small_encoder((6,), prior=prior))
    _, nats = np.linalg.slogdet(jacobian(encoder, grey(6)))
    log_scale = array(encoder.get_layer("scaling").log_scale)
    np.testing.assert_allclose(nats + 6 * math.log(256), log_scale.sum(), atol=1e-4)


@pytest.mark.parametrize("prior", BELLS)
def test_density_integrates_to_one(prior):
    encoder = randomise(small_encoder((2,), prior=prior))
    side = np.linspace(-30, 30, 301, dtype="float32")
    points = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    total = np.exp(nice.log_likelihood(encoder, 256 * points)).sum() * (side[1] - side[0]) ** 2
    assert total == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("prior", BELLS)
@pytest.mark.parametrize("levels", [256, 255])
def test_likelihood_agrees_with_float64(prior, levels):
    """Walk the weights in NumPy, in double precision."""
    encoder = small_encoder((6, 4), prior=prior, levels=levels, scale_speed=3.0)
    randomise(encoder, deviation=0.2)
    images = grey(20, 6, 4)
    z = images.reshape(20, 24).astype("float64") / levels
    for i in (1, 2, 3):
        reverse = z[:, ::-1]
        shift = reverse[:, 0::2]
        for dense in encoder.get_layer(f"coupling_{i}").m.layers:
            kernel, bias = (array(w).astype("float64") for w in dense.weights)
            shift = np.maximum(shift @ kernel + bias, 0)
        z = reverse.copy()
        z[:, 1::2] -= shift
    log_scale = 3 * array(encoder.get_layer("scaling").weights[0]).astype("float64")
    z = z * np.exp(log_scale)
    if prior == "gaussian":
        density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    else:
        density = -np.logaddexp(0, z) - np.logaddexp(0, -z)
    expected = density.sum(axis=1) + log_scale.sum()
    np.testing.assert_allclose(nice.log_likelihood(encoder, images), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("prior", "constant"), [("gaussian", 3 * math.log(2 * math.pi)), ("logistic", 0)]
)
def test_training_loss_is_the_negative_log_likelihood(prior, constant):
    encoder = randomise(small_encoder((6,), prior=prior), deviation=0.1)
    encoder.compile(keras.optimizers.SGD(0.0))
    batches = everything(grey(50, 6), 20)  # the last of them is short, and counts
    loss = encoder.evaluate(batches, verbose=0)
    assert encoder.fit(batches, verbose=0).history["loss"] == pytest.approx([loss], abs=1e-4)
    nats = nice.log_likelihood(encoder, batches.images).mean()
    assert loss + constant == pytest.approx(-nats, abs=1e-4)


def test_likelihood_of_one_draw_of_the_noise():
    encoder = randomise(small_encoder((6,), noise=1 / 256), deviation=0.1)
    images = np.full((5, 6), 100, "uint8")
    plain = nice.log_likelihood(encoder, images, UniformNoise(0, 0))
    one, again, other = (nice.log_likelihood(encoder, images, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).all() and np.ptp(plain) < 1e-5 < np.ptp(one)


def test_the_standard_error_is_that_of_the_mean_over_the_images(monkeypatch):
    """The draws of an image are averaged first; their spread is no measure of the mean's."""
    encoder = small_encoder((28, 28), noise=1 / 256)
    of_images = 2000 + 50 * np.random.default_rng(0).normal(size=400)
    asked = []

    def fake(encoder, images, noise, seed):
        asked.append((noise.low, noise.high, seed))
        return of_images + seed - 4.5

    monkeypatch.setattr(nice, "log_likelihood", fake)
    line = nice.describe_likelihood(encoder, np.zeros((400, 28, 28), "uint8"))
    mean = of_images.mean()
    bits = (784 * math.log(256) - mean) / (784 * math.log(2))
    error = math.sqrt(np.mean((of_images - mean) ** 2)) / 20
    assert line == f"test log-likelihood: {mean:.2f} ± {error:.2f} nats, {bits:.3f} bits/dim"
    assert asked == [(0, 1, seed) for seed in range(10)] and 2 < error < 3


@pytest.mark.parametrize(
    ("levels", "noise", "in_bits", "remark"),
    [
        (256, 1 / 256, True, ""),
        (255, 1 / 255, False, " (of x = (pixel + 1 u) / 255; "),
        (255, 0.0, True, " (trained without noise, the model knows nothing"),
        (256, 0.0, True, " (trained without noise, the model knows nothing"),
        (256, 0.02, False, " (of x = (pixel + 5.12 u) / 256; "),
        (255, 0.01, False, " (of x = (pixel + 2.55 u) / 255; "),
    ],
)
def test_how_a_likelihood_is_described(levels, noise, in_bits, remark):
    """Bits per dimension only where they mean something; a remark where nats do not compare."""
    encoder = small_encoder((6,), levels=levels, noise=noise)
    images = np.random.default_rng(0).integers(0, 256, (30, 6), "uint8")
    line = nice.describe_likelihood(encoder, images, draws=3)
    pattern = r"test log-likelihood: (\S+) ± (\S+) nats(?:, (\S+) bits/dim)?(.*)"
    nats, error, bits, rest = re.fullmatch(pattern, line).groups()
    assert rest.startswith(remark) and bool(rest) == bool(remark)
    assert ("do not compare" in rest) == (bits is None) == (not in_bits)

    layer = encoder.get_layer("noise") if noise else UniformNoise(0, 1)
    draws = [nice.log_likelihood(encoder, images, layer, seed) for seed in range(3)]
    of_images = np.mean(draws, axis=0)
    assert float(nats) == pytest.approx(of_images.mean(), abs=0.006)
    assert float(error) == pytest.approx(of_images.std() / math.sqrt(30), abs=0.006)
    if bits:
        bound = (6 * math.log(levels) - of_images.mean()) / (6 * math.log(2))
        assert float(bits) == pytest.approx(bound, abs=6e-4)


# --- The images' noise, and their parts ------------------------------------------------------


def test_noise_fills_a_grey_level_in_training(digits):
    """Dequantised x = (pixel + u) / 256, and without noise at inference pixel / 256."""
    x_train, *_ = data.load_images(digits)
    encoder = nice.build_encoder(
        (28, 28), dataclasses.replace(nice.RECIPES["paper"], hidden_units=1)
    )
    x = keras.Model(encoder.input, encoder.get_layer("grey_levels").output)
    pixels = x_train[:200].reshape(200, -1).astype("float64")
    u = 256.0 * array(x(x_train[:200], training=True)) - pixels
    assert u.min() > -1e-4 and u.max() < 1 + 1e-4
    assert u.mean() == pytest.approx(0.5, abs=0.01) and u.std() == pytest.approx(0.289, abs=0.01)
    np.testing.assert_allclose(256.0 * array(x(x_train[:200])), pixels, atol=1e-4)


def test_the_articles_noise_darkens(digits):
    """x = pixel / 255 - u, as wide as the recipe says, and no noise by default."""
    x_train, *_ = data.load_images(digits)
    pixels = x_train[:200].reshape(200, -1) / 255.0
    for width in (0.02, 0.0):
        encoder = small_encoder(levels=255, noise=width)
        x = keras.Model(encoder.input, encoder.get_layer("grey_levels").output)
        u = pixels - array(x(x_train[:200], training=True))
        assert u.min() > -1e-6 and u.max() < width + 1e-6
        assert u.mean() == pytest.approx(width / 2, abs=1e-4)
    assert nice.RECIPES["article"].noise == 0 and nice.RECIPES["article"].levels == 255


@pytest.mark.parametrize("recipe", nice.RECIPES)
def test_split_holds_back_the_end_of_the_training_images(recipe):
    training, held = nice.hold_out(60000, nice.RECIPES[recipe])
    np.testing.assert_array_equal(np.concatenate([training, held]), np.arange(60000))
    assert len(held) == (0 if recipe == "article" else 10000)


@pytest.fixture
def passed_to_train(monkeypatch):
    """Do not train; collect what would have been trained on."""
    seen = []

    def train(encoder, batches, validation, recipe, output):
        seen.append((encoder, batches, validation, recipe))
        encoder.save(output / "nice.keras")
        return [{"epoch": 1, "loss": 5.0, "val_loss": 4.0}]

    monkeypatch.setattr(nice, "train", train)
    return seen


@pytest.mark.parametrize("recipe", ["digits", "paper"])
def test_held_back_training_images_choose_the_epoch_under_their_noise(
    recipe, digits, tmp_path, passed_to_train, monkeypatch
):
    monkeypatch.setattr(nice, "start_from_data", lambda *_: None)
    monkeypatch.setattr(nice, "describe_likelihood", lambda *_: "")
    assert train(digits, tmp_path, "--recipe", recipe) == 0
    ((encoder, batches, validation, _),) = passed_to_train
    x_train, *_ = data.load_images(digits)
    for part in (batches, validation):
        assert part.images.dtype == np.uint8
        np.testing.assert_array_equal(part.images, x_train)
    assert batches.images is validation.images
    np.testing.assert_array_equal(batches.rows, np.arange(834))
    np.testing.assert_array_equal(validation.rows, np.arange(834, 1000))
    assert batches.noise is None  # the encoder's own noise is another one in every epoch
    assert validation.noise is encoder.get_layer("noise")
    (first,), (again,) = validation[0], validation[0]
    np.testing.assert_array_equal(first, again)
    u = first - x_train[834:]
    assert 0 <= u.min() and u.max() <= 1 and u.mean() == pytest.approx(0.5, abs=0.01)


def test_the_articles_test_images_choose_the_epoch_without_noise(
    digits, tmp_path, passed_to_train, capsys
):
    assert train(digits, tmp_path, "--recipe", "article", "--noise", "0.02") == 0
    ((_, batches, validation, _),) = passed_to_train
    x_train, x_test, _ = data.load_images(digits)
    np.testing.assert_array_equal(batches.images[batches.rows], x_train)
    np.testing.assert_array_equal(validation[0][0], x_test)
    output = capsys.readouterr().out
    assert "1,000 training images" in output and "200 to choose the model" in output
    assert "best test loss 4.00, epoch 1 of 1" in output
    assert "test log-likelihood" not in output  # these images have chosen the model


def test_test_images_choose_nothing(trained, digits, tmp_path):
    """A run with other test images has the same history."""
    x_train, x_test, _ = data.load_images(digits)
    np.savez(tmp_path / "other.npz", x_train=x_train, x_test=255 - x_test)
    assert train(tmp_path / "other.npz", tmp_path / "output") == 0
    ours, theirs = history.read_history(trained), history.read_history(tmp_path / "output")
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


# --- Where training starts, and the density fitted at its end --------------------------------


def coded(encoder, images):
    """What goes into the scaling, in float64."""
    h = keras.Model(encoder.input, encoder.get_layer("scaling").input)
    return h.predict(images, verbose=0).astype("float64")


@pytest.mark.parametrize("speed", [1.0, 10.0])
@pytest.mark.parametrize("prior", BELLS)
def test_no_rescaling_of_a_dimension_beats_the_scale_from_data(prior, speed):
    encoder = small_encoder((8, 8), prior=prior, scale_speed=speed)
    images = grey(500, 8, 8) * np.linspace(0.1, 1, 8, dtype="float32")
    nice.start_from_data(encoder, everything(images))
    h, s = coded(encoder, images), 1 / encoder.get_layer("scaling").sigma.astype("float64")
    assert (abs(h.mean(axis=0)) > h.std(axis=0)).any()  # the deviation would not do

    def loss(s):
        z = s * h
        own = z**2 / 2 if prior == "gaussian" else np.logaddexp(0, z) + np.logaddexp(0, -z)
        return own.mean(axis=0) - np.log(s)

    for factor in (0.5, 0.97, 1.03, 2.0):
        assert (loss(factor * s) > loss(s)).all()


def test_scale_from_data_counts_the_noise_and_bounds_what_never_varies():
    images = np.zeros((200, 4, 4), "uint8")
    encoder = small_encoder((4, 4), noise=1 / 256, output_activation="linear", output_gain=1e-6)
    nice.start_from_data(encoder, everything(images))
    # The root mean square of u / 256, u ~ U[0, 1).
    np.testing.assert_allclose(encoder.get_layer("scaling").sigma, 1 / 256 / 3**0.5, rtol=0.1)
    encoder = small_encoder((4, 4))
    nice.start_from_data(encoder, everything(images))
    np.testing.assert_allclose(encoder.get_layer("scaling").sigma, 1e-3, rtol=1e-4)


def test_scale_from_data_takes_rows_from_all_over_the_file():
    """A file may be sorted by class: here dark images first, then bright ones."""
    images = grey(400, 4, 4)
    images[:200] /= 50
    encoder = small_encoder((4, 4), output_activation="linear", output_gain=1e-6)
    batches = everything(images)
    nice.start_from_data(encoder, batches, count=200)
    z = coded(encoder, images) / encoder.get_layer("scaling").sigma
    np.testing.assert_allclose(np.mean(z**2, axis=0), 1, atol=0.25)
    np.testing.assert_array_equal(batches.rows, np.arange(400))


def test_codes_are_fitted_beside_a_bright_background():
    """Most pixels are white to within the noise: their variance is a millionth of their square."""
    images = np.full((1000, 20, 20), 255.0, "float32")
    images[:, 5] = grey(1000, 20) % 256
    encoder = small_encoder((20, 20), noise=1 / 256)
    scale = np.random.default_rng(0).normal(0, 2, 400)
    encoder.get_layer("scaling").log_scale_over_speed.assign(scale)
    fitted = nice.fit_codes(encoder, everything(images))
    z = fitted.get_layer("fitted").sample(300)
    drawn = nice.build_decoder(fitted).predict(z, verbose=0)
    assert np.abs(drawn[:, 6:] - 255).mean() < 3


def test_codes_are_fitted_to_draw_from():
    """Two kinds of images: the fitted density draws both, and the likelihood stays."""
    images = np.clip(grey(400, 4, 4) / 20, 0, 255)
    images[::2, :2] += 200
    images[1::2, 2:] += 200
    encoder = small_encoder((4, 4), noise=1 / 256)
    nice.start_from_data(encoder, everything(images))
    nats = nice.log_likelihood(encoder, images)
    fitted = nice.fit_codes(encoder, everything(images))
    np.testing.assert_array_equal(nice.log_likelihood(fitted, images), nats)
    sampler = fitted.get_layer("fitted")
    assert isinstance(sampler, CodeSampler) and fitted.name == "encoder"
    z = sampler.sample(300, seed=1)
    assert z.shape == (300, 16) and z.dtype == np.float32
    np.testing.assert_array_equal(sampler.sample(300, seed=1), z)
    assert (sampler.sample(300, seed=2) != z).any()
    drawn = nice.build_decoder(fitted).predict(z, verbose=0)
    upper, lower = drawn[:, :2].mean(axis=(1, 2)) > 106, drawn[:, 2:].mean(axis=(1, 2)) > 106
    assert (upper != lower).mean() > 0.9  # one half is bright, never both
    assert 0.3 < upper.mean() < 0.7


# --- Training --------------------------------------------------------------------------------


@pytest.mark.parametrize("floatx", ["float16", "bfloat16"])
def test_a_floatx_too_coarse_for_losses_is_refused(floatx, keras_setting, digits, tmp_path, refuse):
    keras_setting("floatx", floatx)
    command = ["--data", digits, "--output", tmp_path / "output", *SMALL]
    refuse(nice.main, command, f"floatx is {floatx}", f"mixed_{floatx}")
    assert not (tmp_path / "output").exists()


def test_the_test_images_are_measured_once_and_last(digits, tmp_path, monkeypatch):
    events, own = [], nice.train
    monkeypatch.setattr(nice, "train", lambda *args: (own(*args), events.append("trained"))[0])
    monkeypatch.setattr(nice, "describe_likelihood", lambda *_: events.append("measured") or "")
    assert train(digits, tmp_path, epochs=1) == 0
    assert events == ["trained", "measured"]


def test_fit_is_fed_batch_by_batch(monkeypatch, tmp_path):
    """Given arrays, Keras would hold float copies of the whole set."""
    fed = []
    monkeypatch.setattr(
        keras.Model, "fit", lambda self, x, **options: fed.append((x, options["validation_data"]))
    )
    monkeypatch.setattr(history.RunKeeper, "finish", lambda self: None)
    batches, encoder = everything(np.zeros((100, 4, 4), "uint8")), small_encoder((4, 4))
    nice.train(encoder, batches, batches, small(), tmp_path)
    ((x, validation),) = fed
    assert validation is batches
    batches.images = batches.images + np.uint8(7)  # what holds a copy still has zeros
    (first,) = x[0] if x is batches else next(iter(x))
    assert (np.asarray(first) == 7).all()


def run(recipe, images, validation, output):
    """Train on images as `main` would; return the encoder and the history."""
    encoder = nice.build_encoder(images.shape[1:], recipe)
    with runs.folder(output, {}, fresh=False):
        batches = everything(images, recipe.batch_size)
        return encoder, nice.train(encoder, batches, validation, recipe, output)


def test_a_run_leaves_what_it_promises(trained):
    rows = history.read_history(trained)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[2]["val_loss"] < rows[0]["val_loss"] - 5
    for epoch in (1, 2, 3):
        assert imageio.imread(trained / "samples" / f"epoch_{epoch:03}.png").shape == (420, 420)
    assert len(imageio.imread(trained / "training.gif", index=None)) == 3
    assert imageio.imread(trained / "training.png").ndim == 3
    settings = json.loads((trained / "settings.json").read_text())
    assert settings["noise"] == 1 / 256 and settings["epochs"] == 3
    assert set(settings) == {"data", *(field.name for field in dataclasses.fields(nice.Recipe))}
    assert not [*trained.glob("partial-*"), *trained.glob("backup*")]
    assert isinstance(nice.load_encoder(trained / "nice.keras").get_layer("fitted"), CodeSampler)


def test_each_epochs_grid_is_drawn_from_the_prior_with_one_seed(trained):
    best = history.best(history.read_history(trained))["epoch"]
    encoder = nice.load_encoder(trained / "nice.keras")
    z = encoder.get_layer("prior").sample(225, temperature=0.8, seed=0)
    expected = pictures.grid(array(nice.build_decoder(encoder)(z)), 15, 15).astype(int)
    grid = imageio.imread(trained / "samples" / f"epoch_{best:03}.png")
    assert abs(grid - expected).max() <= 1 and grid.std() > 10


def test_the_history_says_what_the_loss_is_worth(trained):
    for row in history.read_history(trained):
        for key in ("", "val_"):
            nats = -row[key + "loss"] - 392 * math.log(2 * math.pi)
            assert row[key + "log_likelihood"] == pytest.approx(nats, abs=1e-3)
            bits = (784 * math.log(256) - nats) / (784 * math.log(2))
            assert row[key + "bits_per_dim"] == pytest.approx(bits, abs=1e-4)


def validation_loss(output, validation):
    encoder = nice.load_encoder(output / "nice.keras")
    encoder.compile()
    return encoder.evaluate(validation, verbose=0)


def test_the_best_model_is_kept(tmp_path):
    """Training images that hardly vary: on others, the model gets better and then much worse."""
    images = np.full((100, 4, 4), 128, "uint8")
    validation = everything(np.random.default_rng(0).integers(0, 256, (100, 4, 4), "uint8"))
    recipe = small(noise=1 / 256, scale_speed=10.0, learning_rate=0.02, decay=0.0, epochs=5)
    _, rows = run(recipe, images, validation, tmp_path)
    losses = [row["val_loss"] for row in rows]
    best = int(np.argmin(losses))
    assert len(losses) == 5 and 0 < best < 4 and losses[4] > losses[best] + 1
    assert validation_loss(tmp_path, validation) == pytest.approx(losses[best], abs=0.01)


def test_the_kept_model_of_a_whole_run(trained, digits):
    x_train, *_ = data.load_images(digits)
    held = Batches(x_train, np.arange(834, 1000), 1000, UniformNoise(0, 1))
    best = min(row["val_loss"] for row in history.read_history(trained))
    assert validation_loss(trained, held) == pytest.approx(best, abs=0.01)


@pytest.fixture
def keep(tmp_path):
    """A callback by itself, with an encoder whose log scale says which epoch it is from."""
    encoder = small_encoder((4,), couplings=1)
    encoder.compile(keras.optimizers.Adam())
    (tmp_path / "samples").mkdir()
    batches = everything(grey(100, 4))
    keep = history.RunKeeper(
        tmp_path, batches, lambda count: np.zeros((count, 4, 4)), seed=7, describe=lambda loss: {}
    )
    keep.set_model(encoder)
    return keep


def test_each_epoch_is_judged_by_its_validation_loss(keep, tmp_path):
    log_scale = keep.model.get_layer("scaling").log_scale_over_speed
    kept = []
    for epoch, value in enumerate((-5.0, math.nan, -9.0, -7.0, -9.0, -10.0)):
        log_scale.assign(np.full(4, epoch, "float32"))
        keep.on_epoch_end(epoch, {"loss": -20.0 - epoch, "val_loss": value})
        there = nice.load_encoder(tmp_path / "nice.keras").get_layer("scaling")
        kept.append(float(array(there.log_scale)[0]))
        backup = tmp_path / "backup.keras"
        loaded = keras.saving.load_model(backup).get_layer("scaling").log_scale
        assert float(array(loaded)[0]) == epoch  # the backup is always the last epoch's
    assert kept == [0, 0, 2, 2, 2, 5]
    assert history.best(keep.history)["epoch"] == 6
    with open(tmp_path / "history.csv", newline="") as file:
        assert [float(row["val_loss"]) for row in csv.DictReader(file)][2:] == [-9, -7, -9, -10]


def test_a_training_loss_that_is_not_finite_ends_training(keep, tmp_path):
    keep.on_epoch_end(0, {"loss": -1.0, "val_loss": -1.0})
    before = (tmp_path / "backup.keras").read_bytes()
    assert not getattr(keep.model, "stop_training", False)
    keep.on_epoch_end(1, {"loss": math.nan, "val_loss": math.nan})
    assert keep.model.stop_training
    assert (tmp_path / "backup.keras").read_bytes() == before


def test_an_epochs_order_and_noise_hang_on_seed_and_epoch_alone(keep):
    def epoch(number):
        keep.on_epoch_begin(number)
        state = keep.model.get_layer("noise").seed_generator.state
        return [*keep.batches.rows, *array(state)]

    first, second = epoch(0), epoch(1)
    assert sorted(first[:100]) == sorted(second[:100]) == list(range(100))
    assert first[:100] != second[:100] and first[100:] != second[100:]
    assert (epoch(1), epoch(0)) == (second, first)
    keep.seed = 8
    assert epoch(0) != first


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Make an encoder and its optimiser as `train` does, for 3 epochs of 2 batches, and stop."""
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: None)
    monkeypatch.setattr(history.RunKeeper, "finish", lambda self: None)

    def compile(**changes):
        recipe = small(epochs=3, learning_rate=1e-3, **changes)
        images = np.zeros((100, 4, 4), "uint8")
        encoder = nice.build_encoder((4, 4), recipe)
        nice.train(encoder, everything(images), everything(images), recipe, tmp_path)
        return encoder

    return compile


def test_the_learning_rate_rises_and_falls(compiled):
    """Along a cosine to 0, after a warm-up or a while; or it stays, as in the article."""
    cosine = [(1 + math.cos(math.pi * i / 6)) / 2000 for i in range(7)]
    warm = [0, 5e-4, *[(1 + math.cos(math.pi * i / 4)) / 2000 for i in range(5)]]
    for changes, expected in (
        ({"decay": 1.0}, cosine),
        ({"decay": 2 / 3, "warmup": True}, warm),
        ({"decay": 2 / 3}, 2 * [1e-3] + warm[2:]),
        ({"decay": 0.0}, 7 * [1e-3]),
    ):
        optimizer = compiled(**changes).optimizer
        optimizer.build([])
        for step, rate in enumerate(expected):
            optimizer.iterations.assign(step)
            assert float(array(optimizer.learning_rate)) == pytest.approx(rate, abs=1e-8)


@pytest.mark.parametrize("prior", ["gaussian", "mixture"])
def test_weight_decay_is_on_the_couplings_matrices_alone(prior, compiled):
    encoder = randomise(compiled(weight_decay=0.5, decay=0.0, prior=prior))
    before = [array(weight) for weight in encoder.trainable_weights]
    zeros = [np.zeros_like(weight) for weight in before]
    zeros = [keras.ops.convert_to_tensor(zero) for zero in zeros]
    encoder.optimizer.apply(zeros, encoder.trainable_variables)
    for weight, start in zip(encoder.trainable_weights, before, strict=True):
        kept = 1 - 0.5 * 1e-3 if weight.name == "kernel" else 1
        np.testing.assert_allclose(array(weight), kept * start, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 30])
def test_few_images(count, tmp_path, capsys):
    with np.load(data.MNIST) as mnist:
        x = mnist["x_train"][:count]
    np.savez(tmp_path / "few.npz", x_train=x, x_test=x)
    assert train(tmp_path / "few.npz", tmp_path, epochs=2) == 0
    kind = "test" if count == 1 else "validation"  # nothing can be held back from one image
    assert f"best {kind} loss" in capsys.readouterr().out
    encoder = nice.load_encoder(tmp_path / "nice.keras")
    codes = encoder.get_layer("fitted").sample(5)
    images = nice.build_decoder(encoder).predict(codes, verbose=0)
    assert images.shape == (5, 28, 28) and np.isfinite(images).all()


def test_colour_images_of_another_size(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "colour.npz"
    np.savez(path, x_train=rng.random((50, 6, 4, 3)), x_test=rng.random((10, 6, 4, 3)))
    assert train(path, tmp_path, epochs=1) == 0
    picture = imageio.imread(tmp_path / "samples" / "epoch_001.png")
    assert picture.shape == (15 * 6, 15 * 4, 3)


def test_the_papers_recipe(tmp_path, capsys):
    with np.load(data.MNIST) as mnist:
        x = mnist["x_train"][:600]
    path = tmp_path / "digits.npz"
    np.savez(path, x_train=x, x_test=x[:4])
    assert train(path, tmp_path, "--recipe", "paper", epochs=2) == 0
    output = capsys.readouterr().out
    assert "500 training images of shape (28, 28), 100 to choose the model" in output
    line = re.search(r"^test log-likelihood: (.+) ± (.+) nats, (.+) bits/dim$", output, re.M)
    nats, error, bits = (float(value) for value in line.groups())
    assert error > 0
    assert bits == pytest.approx((784 * math.log(256) - nats) / (784 * math.log(2)), abs=1e-3)

    encoder = nice.load_encoder(tmp_path / "nice.keras")
    noise, levels = encoder.get_layer("noise"), encoder.get_layer("grey_levels").levels
    assert (noise.low, noise.high, levels) == (0, 1, 256)
    assert type(encoder.get_layer("prior")) is nice.PRIORS["logistic"]
    assert encoder.get_layer("coupling_1").output_activation == "linear"
    assert encoder.get_layer("scaling").sigma.min() < 0.1  # it started from the data
    row = history.read_history(tmp_path)[-1]
    assert row["val_log_likelihood"] == pytest.approx(-row["val_loss"])

    assert nice.main(["--evaluate", "--data", str(path), "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == line.group()


def test_a_run_with_a_learned_prior(digits, tmp_path, capsys):
    """It starts where the codes are, learns with the couplings, and leaves s alone."""
    assert train(digits, tmp_path, "--recipe", "paper", "--prior", "mixture", epochs=2) == 0
    said = capsys.readouterr().out
    (nats,) = re.findall(r"test log-likelihood: (\S+) ± \S+ nats, \S+ bits/dim$", said, re.M)
    assert float(nats) > 1500  # of 3429, where the recipe's own prior has not got to 0 by now
    encoder = nice.load_encoder(tmp_path / "nice.keras")
    prior = encoder.get_layer("prior")
    assert type(prior) is nice.PRIORS["mixture"] and (encoder.get_layer("scaling").sigma == 1).all()
    first, second = history.read_history(tmp_path)
    assert second["loss"] < first["loss"] and second["val_loss"] < first["val_loss"]
    _, x_test, _ = data.load_images(digits)
    for picture in (sample.codes, sample.traverse, sample.likelihood):
        picture(encoder, x_test)
    capsys.readouterr()
    sample.spectrum(encoder)
    half = int(capsys.readouterr().out.split()[0])
    variances = np.sort(prior.deviation**2)[::-1]
    assert half == np.argmax(np.cumsum(variances) >= variances.sum() / 2) + 1
    assert np.isfinite(sample.samples(encoder, source="prior").images).all()


# --- The program -----------------------------------------------------------------------------


def test_recipes_options_and_what_is_printed(digits, tmp_path, capsys):
    output = tmp_path / "an output's folder"
    options = "--recipe", "article", "--noise", "0.02", "--seed", "7"
    assert train(digits, output, *options, epochs=1) == 0
    settings = json.loads((output / "settings.json").read_text())
    assert settings["learning_rate"] == 1e-3 and not settings["scale_from_data"]
    assert settings["noise"] == 0.02 and settings["seed"] == 7
    encoder = nice.load_encoder(output / "nice.keras")
    noise = encoder.get_layer("noise")
    assert (noise.low, noise.high) == (-0.02 * 255, 0)
    assert encoder.get_layer("coupling_1").hidden_units == 32
    row = history.read_history(output)[-1]  # nats of images without noise would mean nothing
    assert set(row) == {"epoch", "loss", "val_loss"}

    printed = capsys.readouterr().out
    assert backends.describe_device() in printed
    command = re.search("^next:  python (.+)$", printed, re.M).group(1)
    assert shlex.split(command) == ["sample.py", "--model", str(output / "nice.keras")]


@pytest.mark.parametrize("folder", ["-run", "a b", "plain", "-a 'b"])
def test_the_next_command_means_the_model(folder):
    model = Path(folder) / "nice.keras"
    words = shlex.split(command_line.model_option(model))
    assert command_line.parse_picture(words, sample.PICTURES).model == model


def test_windows_quotes_in_its_own_way(monkeypatch):
    monkeypatch.setattr(command_line, "os", types.SimpleNamespace(name="nt"))
    path = PureWindowsPath(r"a\nice.keras")
    assert command_line.model_option(path) == r" --model a\nice.keras"
    path = PureWindowsPath(r"-runs\nice.keras")
    assert command_line.model_option(path) == r" --model=-runs\nice.keras"
    path = PureWindowsPath(r"my runs\nice.keras")
    assert command_line.model_option(path) == r' --model "my runs\nice.keras"'


def test_evaluate(trained, digits, tmp_path, capsys, refuse):
    evaluate = ["--evaluate", "--data", str(digits), "--output"]
    before = {path: path.read_bytes() for path in trained.glob("*.*")}
    assert nice.main([*evaluate, str(trained)]) == 0
    _, x_test, _ = data.load_images(digits)
    encoder = nice.load_encoder(trained / "nice.keras")
    line = nice.describe_likelihood(encoder, x_test)
    printed = f"{backends.describe_device()}\n{line}\n"
    assert capsys.readouterr().out == printed and line.endswith(" bits/dim")
    assert {path: path.read_bytes() for path in trained.glob("*.*")} == before
    np.savez(tmp_path / "test.npz", x_test=x_test)  # which is all that it needs
    only = ["--evaluate", "--data", str(tmp_path / "test.npz"), "--output", str(trained)]
    assert nice.main(only) == 0
    assert capsys.readouterr().out == printed
    refuse(nice.main, ["--evaluate", "--output", tmp_path], "nice.keras: no such model")
    np.savez(tmp_path / "a.npz", x_train=np.zeros((2, 4, 4)), x_test=np.zeros((2, 4, 4)))
    other = ["--data", tmp_path / "a.npz", "--output", trained]
    refuse(nice.main, ["--evaluate", *other], "shape (4, 4)", "(28, 28)")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--batch-size", "0"],
        ["--epochs", "-1"],
        ["--epochs", "9" * 400 + ".0"],
        ["--learning-rate", "nan"],
        ["--noise", "-0.1"],
        ["--hidden-units", "many"],
        ["--recipe", "secret"],
        ["--no-such-option"],
    ],
)
def test_bad_options(arguments, refuse):
    refuse(nice.main, arguments, arguments[0])


@pytest.mark.parametrize(
    ("shape", "changes", "words"),
    [
        ((4,), {"couplings": 0}, "couplings must be at least 1"),
        ((4,), {"noise": -0.1}, "noise must have high >= low"),
        ((4,), {"hidden_units": 0}, "hidden_units must be at least 1"),
        ((3, 3), {}, "even number"),
    ],
)
def test_bad_recipes(shape, changes, words):
    with pytest.raises(ValueError, match=words):
        small_encoder(shape, **changes)


def test_a_loss_that_is_not_finite(digits, tmp_path, capsys):
    assert train(digits, tmp_path, "--recipe", "article", "--learning-rate", "1e30") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--learning-rate" in error


def test_no_finite_validation_loss(digits, tmp_path, monkeypatch, capsys):
    rows = [{"epoch": 1, "loss": 5.0, "val_loss": math.nan}]
    monkeypatch.setattr(nice, "train", lambda *_: rows)
    assert train(digits, tmp_path) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "nan" in captured.err
    assert "next:" not in captured.out


@pytest.mark.parametrize(("last", "words"), [(-10.0, "fell apart"), (-99.0, "")])
def test_a_run_that_falls_apart_says_so(last, words, capsys):
    rows = [{"epoch": i + 1, "loss": v, "val_loss": v} for i, v in enumerate((-50, -100, last))]
    assert history.report(rows, "validation") == 0
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == bool(words)
    assert captured.out == "best validation loss -100.00, epoch 2 of 3\n"


def test_main_in_a_thread(digits, tmp_path):
    """Signals belong to the main thread; training does not."""
    status = []
    thread = threading.Thread(target=lambda: status.append(train(digits, tmp_path, epochs=1)))
    thread.start()
    thread.join()
    assert status == [0] and len(history.read_history(tmp_path)) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_ours_only_while_training(
    number, digits, tmp_path, passed_to_train, monkeypatch, capsys
):
    def mine(number, frame):
        raise AssertionError("this is not the run's handler")

    own = nice.train
    before = {each: signal.signal(each, mine) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert train(digits, tmp_path) == 0
        assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM) is mine

        def stopped(*arguments):
            own(*arguments)
            signal.raise_signal(number)

        monkeypatch.setattr(nice, "train", stopped)
        assert train(digits, tmp_path, "--fresh") == 128 + number
        assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM) is mine
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "to go on" in error


# --- The output folder -----------------------------------------------------------------------


def test_an_output_folder_that_cannot_be_written(digits, tmp_path, refuse):
    (tmp_path / "file").write_text("mine")
    refuse(nice.main, ["--data", digits, "--output", tmp_path / "file" / "output"], "file")
    refuse(nice.main, ["--data", digits, "--output", tmp_path / "file"], "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_finished_run_is_not_overwritten(trained, digits, refuse):
    before = (trained / "nice.keras").read_bytes()
    again = ["--data", digits, "--output", trained, "--epochs", "3", *SMALL]
    refuse(nice.main, again, "finished run", "--fresh")
    refuse(nice.main, [*again, "--seed", "1"], "seed 0, not 1")
    refuse(nice.main, [*again, "--hidden-units", "8"], "hidden_units 32, not 8")
    refuse(nice.main, ["--output", trained, "--epochs", "3", *SMALL], "data")
    refuse(nice.main, [*again, "--recipe", "article"], "scale_speed 4.0, not 1.0")
    assert (trained / "nice.keras").read_bytes() == before


def test_a_model_from_elsewhere_is_not_overwritten(trained, digits, tmp_path, refuse):
    shutil.copy(trained / "nice.keras", tmp_path)
    refuse(nice.main, ["--data", digits, "--output", tmp_path, *SMALL], "nice.keras", "--fresh")


def test_fresh_starts_over(trained, digits, tmp_path, capsys):
    output = shutil.copytree(trained, tmp_path / "output")
    assert train(digits, output, "--fresh", epochs=2) == 0
    assert "replaces" in capsys.readouterr().out
    assert len(history.read_history(output)) == 2
    assert len(list(output.glob("samples/*"))) == 2


def test_fresh_stopped_early_says_how_to_go_on(trained, digits, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt(2)

    output = shutil.copytree(trained, tmp_path / "output")
    monkeypatch.setattr(nice, "train", stop)
    assert train(digits, output, "--fresh") == 130
    error = capsys.readouterr().err
    assert "no epoch was finished" in error and "without --fresh" in error


def test_a_backup_without_its_history(trained, digits, tmp_path, refuse):
    output = shutil.copytree(trained, tmp_path / "output")
    (output / "training.gif").unlink()
    shutil.copy(output / "nice.keras", output / "backup.keras")
    (output / "history.csv").unlink()
    again = ["--data", digits, "--output", output, "--epochs", "3", *SMALL]
    refuse(nice.main, again, "backup.keras is damaged", "--fresh")


def test_a_damaged_backup(trained, digits, tmp_path, refuse):
    output = shutil.copytree(trained, tmp_path / "output")
    (output / "training.gif").unlink()
    (output / "backup.keras").write_bytes(b"nonsense")
    again = ["--data", digits, "--output", output, "--epochs", "3", *SMALL]
    refuse(nice.main, again, "backup.keras", "--fresh")


def test_one_run_at_a_time(tmp_path):
    with runs.folder(tmp_path / "output", {}, fresh=False):
        with pytest.raises(ValueError, match="in use"):
            with runs.folder(tmp_path / "output", {}, fresh=True):
                raise AssertionError("two runs in one folder")
    with runs.folder(tmp_path / "output", {}, fresh=False):
        pass
    (tmp_path / "other" / ".lock").mkdir(parents=True)
    with pytest.raises(ValueError, match="in use"):
        with runs.folder(tmp_path / "other", {}, fresh=False):
            raise AssertionError("a folder that cannot be locked")


def test_a_full_disk_is_said_in_one_line(tmp_path):
    with pytest.raises(runs.Stopped, match="No space left; make room, then run the same") as stop:
        with runs.folder(tmp_path, {}, fresh=False):
            raise OSError("No space left")
    assert stop.value.status == 1


def test_a_reader_who_leaves_is_no_full_disk(tmp_path):
    with pytest.raises(runs.Stopped, match="nobody reads what this prints; run the same command"):
        with runs.folder(tmp_path, {}, fresh=False):
            raise BrokenPipeError("Broken pipe")


@pytest.mark.parametrize("text", ["", "{", "5", '["seed"]'])
def test_damaged_settings(text, tmp_path):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ValueError, match="settings.json is damaged: .*--fresh"):
        with runs.folder(tmp_path, {}, fresh=False):
            raise AssertionError("it went on with a run that it knows nothing of")
    with runs.folder(tmp_path, {}, fresh=True):
        pass


def test_files_are_replaced_whole_and_flushed_first(tmp_path, monkeypatch):
    """After a power cut the name must not stand for an empty file."""
    path, events = tmp_path / "file.txt", []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *args: (events.append("flush"), sync(*args)))
    monkeypatch.setattr(os, "replace", lambda *args: (events.append("rename"), rename(*args)))
    runs.replace(path, lambda partial: partial.write_text("old"))
    assert events == ["flush", "rename"] + ["flush"] * (os.name == "posix")

    def fail(partial):
        partial.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        runs.replace(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


# --- Model files -----------------------------------------------------------------------------


def test_a_backend_that_does_not_start_is_no_fault_of_the_model(trained, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no CUDA driver")

    monkeypatch.setattr(keras.ops, "zeros", fail)
    monkeypatch.setattr(keras.saving, "load_model", fail)
    with pytest.raises(RuntimeError, match="no CUDA driver"):
        nice.load_encoder(trained / "nice.keras")


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_another_program_loads_a_model_with_one_line(backend, trained, tmp_path):
    """As the README has it, on every backend, and gets the same codes."""
    if not PathFinder.find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"`(import keras, layers; .*load_model\(.*\))`", readme)
    text = f"""
import sys, numpy as np
{line.replace("; ", "; encoder = ").replace('"output/nice.keras"', "sys.argv[1]")}
images = np.load(sys.argv[2])
np.save(sys.argv[3], keras.ops.convert_to_numpy(encoder(images)))
"""
    images = grey(20, 28, 28)
    np.save(tmp_path / "images.npy", images)
    paths = trained / "nice.keras", tmp_path / "images.npy", tmp_path / "codes.npy"
    there = program(text, *paths, KERAS_BACKEND=backend)
    assert there.returncode == 0, there.stderr
    codes = array(nice.load_encoder(trained / "nice.keras")(images))
    np.testing.assert_allclose(np.load(paths[-1]), codes, rtol=1e-3, atol=1e-3)


def with_config(model, path, change):
    """Copy a .keras file with a change to its configuration's text."""
    with zipfile.ZipFile(model) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content.decode()) if name == "config.json" else content)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"class_name": "Reshape"', '"class_name": "TorchModuleWrapper"'),
        ('"class_name": "Functional"', '"class_name": "Sequential"'),
        ('"class_name": "GreyLevels"', '"class_name": "Lambda"'),
        ('"class_name": "GreyLevels"', '"class_name": "TFSMLayer"'),
        ('"registered_name": null', '"registered_name": "nice>Other"'),
    ],
)
def test_a_model_with_other_classes_is_refused(old, new, trained, digits, tmp_path, refuse):
    """Even where such a class claims to be one of ours."""

    def change(text):
        assert old in text
        text = text.replace(old, new)
        if "Lambda" in new:
            text = text.replace('"registered_name": "nice>GreyLevels"', '"registered_name": null')
        if "Other" in new:
            text = text.replace('"class_name": "Reshape"', '"class_name": "Lambda"')
        return text

    with_config(trained / "nice.keras", tmp_path / "nice.keras", change)
    word = "Lambda" if "Other" in new else json.loads("{" + new + "}")["class_name"]
    evaluate = ["--evaluate", "--data", digits, "--output", tmp_path]
    refuse(nice.main, evaluate, f"not a usable NICE model: a NICE model has no {word}")


def test_a_model_of_keras_that_is_no_encoder(digits, tmp_path, refuse):
    x = keras.Input((28, 28))
    keras.Model(x, keras.layers.Reshape((784,))(x)).save(tmp_path / "nice.keras")
    evaluate = ["--evaluate", "--data", digits, "--output", tmp_path]
    refuse(nice.main, evaluate, "not a usable NICE model", "noise")


def test_a_model_survives_saving_with_its_fitted_density(tmp_path):
    encoder = randomise(small_encoder((4, 6, 3), noise=1 / 256), deviation=0.1)
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 6, 3), "uint8")
    encoder = nice.fit_codes(encoder, everything(images))
    encoder.save(tmp_path / "nice.keras")
    loaded = nice.load_encoder(tmp_path / "nice.keras")
    np.testing.assert_array_equal(
        loaded.get_layer("fitted").sample(9), encoder.get_layer("fitted").sample(9)
    )
    np.testing.assert_allclose(
        nice.log_likelihood(loaded, images), nice.log_likelihood(encoder, images), rtol=1e-5
    )


# --- Devices and processes -------------------------------------------------------------------

STARTED = """
def started():
    match keras.backend.backend():
        case "jax":
            from jax._src import xla_bridge
            return xla_bridge.backends_are_initialized()
        case "tensorflow":
            from tensorflow.python.eager import context
            return bool(context.context()._initialized)
        case "torch":
            import torch
            return torch.cuda.is_initialized()
"""


def test_importing_changes_nothing_and_help_starts_no_device():
    text = """
import os, signal, sys
import keras
def state():
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    return dict(os.environ), sys.stderr, os.fstat(2), handlers, sys.modules.get("tensorflow", 0)
before = state()
import layers, nice, sample
assert state() == before
for program in nice, sample:
    try:
        program.main(["--help"])
    except SystemExit as end:
        assert end.code == 0
assert not started(), "a device was started"
keras.ops.zeros(())
assert keras.backend.backend() == "torch" or started(), "this test sees nothing"
"""
    there = program(STARTED + text)
    assert there.returncode == 0, there.stderr
    assert there.stdout.startswith("usage: nice.py") and "usage: sample.py" in there.stdout


def test_a_refused_program_starts_no_device():
    """The program's whole text, as `python nice.py` runs it."""
    text = """
import runpy, sys, keras
sys.argv = ["nice.py", "--epochs", "0"]
try:
    runpy.run_path("nice.py", run_name="__main__")
except SystemExit as end:
    assert end.code == 2
else:
    raise AssertionError("it took the option")
assert not started(), "a device was started"
"""
    there = program(STARTED + text)
    assert there.returncode == 0, there.stderr
    (line,) = [line for line in there.stderr.splitlines() if line.startswith("nice.py: ")]
    assert line == "nice.py: error: argument --epochs: must be at least 1, got 0"


def test_what_a_backend_says_of_a_gpu_is_not_lost():
    """C++ libraries write to file descriptor 2, Python to sys.stderr."""
    text = """
import os, sys
from support import chatter
chatter.hold_back()
os.write(2, b"W0000 cpu.cc:1] greetings\\nE0000 cuda.cc:8] registered before\\n")
os.write(2, b"E0000 cuda.cc:9] no CUDA driver found\\n")
print("from Python", file=sys.stderr)
assert chatter.about_gpu(chatter.give_back()) == "no CUDA driver found"
os.write(2, b"from C++\\n")
assert chatter.about_gpu(chatter.give_back()) == ""
"""
    there = program(text)
    assert (there.returncode, there.stderr) == (0, "from Python\nfrom C++\n")


def test_the_backend_is_found_where_keras_looks(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for text, name in (('{"backend": "jax"}', "jax"), ("{}", "tensorflow"), ("[]", "tensorflow")):
        (tmp_path / "keras.json").write_text(text)
        assert startup.backend() == name

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert startup.backend() == "torch"


@pytest.mark.skipif(os.name != "posix", reason="of a shell's 2>&-")
def test_a_program_without_stderr_keeps_off_its_descriptor():
    """Or the file that holds back what C++ says would itself be descriptor 2."""
    text = "from support import chatter; chatter.hold_back(); print(chatter.held)"
    command = ["sh", "-c", 'exec "$0" "$@" 2>&-', sys.executable, "-c", text]
    there = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert (there.returncode, there.stdout) == (0, "None\n")


HELD_BACK = """
import os, signal, sys
from support import chatter
chatter.hold_back()
os.write(2, b"E0000 cuda.cc:9] the driver is too old\\n")
"""


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("raise RuntimeError('no backend')", "RuntimeError: no backend"),
        ("os.abort()", "Fatal Python error: Aborted"),
        ("os.kill(os.getpid(), signal.SIGKILL)", ""),
    ],
)
def test_a_backend_that_does_not_start_is_heard(failure, words):
    """What it wrote is shown, even if it aborts, when no code of ours runs any more."""
    there = program(HELD_BACK + failure)
    assert there.returncode != 0 and words in there.stderr
    if "raise" in failure or hasattr(os, "fork"):
        assert there.stderr.count("E0000 cuda.cc:9] the driver is too old\n") == 1
    if "raise" in failure:
        assert there.stderr.startswith("E0000 cuda.cc:9] the driver is too old\nTraceback")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="of a second process")
@pytest.mark.parametrize(
    "ending",
    [
        "",
        "sys.exit(2)",
        "print(chatter.about_gpu(chatter.give_back())); os.kill(os.getpid(), signal.SIGKILL)",
    ],
)
def test_what_is_held_back_stays_so_where_nothing_failed(ending):
    there = program(HELD_BACK + "child, _ = chatter.watcher\nprint(child, flush=True)\n" + ending)
    child, *said = there.stdout.splitlines()
    assert there.stderr == "" and said == ["the driver is too old"] * ("about_gpu" in ending)
    with pytest.raises(ProcessLookupError):
        os.kill(int(child), 0)


def test_a_program_leaves_gpu_memory_to_others():
    """Both variables are the backends' own; what the user has set stands."""
    text = """
import os
from support import startup
os.environ.pop("TF_FORCE_GPU_ALLOW_GROWTH", None)
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "user"
startup.quiet()
assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "user"
del os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]
startup.quiet()
assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
"""
    there = program(text)
    assert there.returncode == 0, there.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_memory_that_a_step_frees_is_kept_for_the_next():
    """Faults are pages that the system had to clear: 4 MiB have 1,024, a step below 15,360."""
    text = """
import resource
import numpy as np
from support import memory
def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(2**20, "float32") for _ in range(15)]
    big = np.ones(2**23 - 2**12, "float32")  # nearly 32 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
assert min(step() for _ in range(3)) > 5000, "this test sees nothing"
memory.keep()
step()
assert max(step() for _ in range(3)) < 100
"""
    there = program(text)
    assert there.returncode == 0, there.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_memory_goes_back_where_no_step_will_want_it():
    """Of 400 blocks of a quarter MiB every tenth stays, so what is free is holes in the heap."""
    text = """
import mmap, types
import numpy as np
from support import gaussians, memory, model_files
from support.batches import Batches
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE / 2**20
def make_holes(x=None):
    if len(kept) < 40:
        kept.extend([np.ones(2**15) for _ in range(400)][::10])
        full.append(resident())
def a_pass():
    list(Batches(np.zeros((1, 4, 4))).through(types.SimpleNamespace(predict_on_batch=abs)))
def a_long_pass():
    kept.clear()
    model = types.SimpleNamespace(predict_on_batch=make_holes)  # in its first batch
    list(Batches(np.zeros((11, 4, 4)), batch_size=1).through(model))
def gather(): gaussians.gather([], 1, 1)
def load():
    try:
        model_files.load("none.keras", None)
    except ValueError:
        pass
memory.keep()
kept, full = [], []
for call in (a_pass, a_long_pass, gather, load):
    before = resident()
    make_holes()
    call()
    assert full.pop() > before + 85, "this test sees nothing"
    assert resident() < before + 20, call.__name__
    kept.clear()
for _ in range(2):  # the first time other things stay resident, too
    before = resident()
    y = gaussians.gather([np.ones((2**12, 2**10))], 2**12, 2**10)
    full = resident()
    kept = np.ones(2**10)
    del y
assert full > before + 7, "this test sees nothing"
assert resident() < before + 3
"""
    there = program(text)
    assert there.returncode == 0, there.stderr


def test_too_large_a_block_is_no_full_disk():
    with pytest.raises(MemoryError, match="no memory for 1,000,"):
        memory.block(10**18)
    assert memory.block(10)[:] == bytes(10)


def test_as_many_devices_as_divide_every_batch(monkeypatch, capsys):
    used = []
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0", "gpu:1", "gpu:2"])
    monkeypatch.setattr(keras.distribution, "DataParallel", lambda devices: devices)
    monkeypatch.setattr(keras.distribution, "set_distribution", used.append)
    backends.use_all_devices(128, 50000, 10000, 10000)
    assert used == [["gpu:0", "gpu:1"]]
    assert capsys.readouterr().out.startswith("training on 2 of 3 devices")
    backends.use_all_devices(7, 50)  # each batch of 7 and the last of 1
    assert len(used) == 1


def test_the_device_is_named_with_the_reason_why_it_is_no_gpu(monkeypatch):
    plain = backends.describe_device()
    assert plain.startswith(f"{keras.backend.backend()} on ")
    monkeypatch.setattr(chatter, "about_gpu", lambda text: "no CUDA driver found")
    reason = " (no CUDA driver found)" if "cpu" in plain.lower() else ""
    assert backends.describe_device() == plain + reason


def test_several_devices(digits, trained, tmp_path, monkeypatch, capsys):
    """Four of JAX's virtual devices must train as one does; other backends must say they cannot.

    834, 166 and 200 images in batches of 100 and 200 can be dealt out evenly to two of them.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        text = "import sys; sys.path.insert(0, 'tests'); from conftest import train; "
        text += "sys.exit(train(*sys.argv[1:]))"  # and its 3 epochs, which set the rate's decay
        flags = "--xla_force_host_platform_device_count=4"
        there = program(text, digits, tmp_path, XLA_FLAGS=flags)
        assert "training on 2 of 4 devices" in there.stdout, there.stderr
        losses = [
            [row["val_loss"] for row in history.read_history(output)]
            for output in (tmp_path, trained)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-4, atol=1e-3)  # one is near 0
        return
    if backend == "torch":
        monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    else:
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0"] * 4)
    backends.use_all_devices(100, 1000)
    assert capsys.readouterr().out.startswith("training on 1 of 4 devices: KERAS_BACKEND=jax")


# --- The package -----------------------------------------------------------------------------


def test_the_model_reads_on_its_own_and_support_knows_nothing_of_it():
    assert {path.name for path in ROOT.glob("*.py")} == {"layers.py", "nice.py", "sample.py"}
    imports = {}
    for path in (ROOT / "support").rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 150, path
        names = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None) or ""
                names |= {f"{module}.{alias.name}".strip(".") for alias in node.names}
        assert not {name.split(".")[0] for name in names} & {"layers", "nice", "sample"}, path
        imports[path.stem] = {name.split(".")[1] for name in names if name.startswith("support.")}
    assert imports["history"] > {"errors"}
    graphlib.TopologicalSorter(imports).prepare()  # no cycles
