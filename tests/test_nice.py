"""The model, its density, its data and its training."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import imageio.v3 as imageio
import keras
import numpy as np
import pytest
from conftest import SMALL, jacobian, randomise, train

import nice
from layers import UniformNoise

ROOT = Path(nice.__file__).parent


def small_encoder(image_shape=(28, 28), **arguments):
    return nice.build_encoder(image_shape, 3, 2, 16, **arguments)


def test_the_articles_network():
    encoder = nice.build_encoder((28, 28))
    assert sum(math.prod(w.shape) for w in encoder.trainable_weights) == 19_158_352
    decoder = nice.build_decoder(encoder)
    assert {id(w) for w in decoder.trainable_weights} == {id(w) for w in encoder.trainable_weights}


@pytest.mark.parametrize("shape", [(28, 28), (4, 6, 3), (2,)])
def test_decoder_inverts_encoder(shape):
    encoder = randomise(small_encoder(shape, noise=0.1), deviation=0.1)
    x = np.random.default_rng(0).random((20, *shape), dtype="float32")
    images = nice.build_decoder(encoder).predict(encoder.predict(x, verbose=0), verbose=0)
    np.testing.assert_allclose(images, x, atol=1e-5)


def test_decoder_follows_training():
    encoder = small_encoder((4,))
    before = nice.build_decoder(encoder)
    x = np.random.default_rng(0).random((64, 4), dtype="float32")
    start = before.predict(x, verbose=0)
    encoder.compile(keras.optimizers.Adam(0.01), nice.gaussian_loss)
    encoder.fit(x, x, epochs=3, verbose=0)
    np.testing.assert_allclose(
        before.predict(x, verbose=0), nice.build_decoder(encoder).predict(x, verbose=0)
    )
    assert abs(before.predict(x, verbose=0) - start).max() > 1e-3


@pytest.mark.parametrize("prior", nice.PRIORS)
def test_log_determinant_is_the_jacobians(prior):
    encoder = randomise(small_encoder((6,), prior=prior))
    determinant = np.linalg.det(jacobian(encoder, np.linspace(0, 1, 6)))
    log_scale = keras.ops.convert_to_numpy(encoder.layers[-1].log_scale)
    np.testing.assert_allclose(np.log(abs(determinant)), log_scale.sum(), atol=1e-4)


@pytest.mark.parametrize("prior", nice.PRIORS)
def test_density_integrates_to_one(prior):
    encoder = randomise(small_encoder((2,), prior=prior))
    side = np.linspace(-30, 30, 1201, dtype="float32")
    points = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    total = np.exp(nice.log_likelihood(encoder, points)).sum() * (side[1] - side[0]) ** 2
    assert total == pytest.approx(1, abs=0.01)


def test_training_loss_is_the_negative_log_likelihood():
    encoder = randomise(small_encoder((6,)), deviation=0.1)
    encoder.compile(keras.optimizers.SGD(0.0), loss=nice.gaussian_loss)
    x = np.random.default_rng(0).random((50, 6), dtype="float32")
    loss = encoder.evaluate(x, np.zeros(50), verbose=0)
    batches = nice.batches(x, 20)  # the last of them is short, and counts
    assert encoder.fit(**batches, verbose=0).history["loss"] == pytest.approx([loss], abs=1e-4)
    assert loss + 3 * math.log(2 * math.pi) == pytest.approx(
        -nice.log_likelihood(encoder, x).mean(), abs=1e-4
    )


@pytest.mark.parametrize(("prior", "wanted"), [("gaussian", 1), ("logistic", 1.814)])
def test_scale_from_data_makes_codes_as_wide_as_the_prior(prior, wanted, digits):
    x_train, *_ = nice.load_images(digits)
    encoder = small_encoder(noise=0.01, prior=prior)
    nice.scale_from_data(encoder, x_train)
    noisy = x_train - 0.01 * np.random.default_rng(1).random(x_train.shape, dtype="float32")
    deviation = encoder.predict(noisy, verbose=0).std(axis=0)
    assert np.median(deviation) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("prior", nice.PRIORS)
def test_codes_follow_the_prior(prior):
    codes = nice.draw_codes(prior, 1000, 20, 0.5, seed=0)
    deviation = {"gaussian": 1, "logistic": math.pi / math.sqrt(3)}[prior]
    assert codes.std() == pytest.approx(deviation / 2, rel=0.03)
    assert not nice.draw_codes(prior, 3, 4, 0.0, seed=0).any()


def test_grid_places_and_clips():
    images = np.zeros((6, 2, 2), "float32")
    images[4] = [[1, 2], [-1, 0.5]]
    picture = nice.grid(images, 2, 3)
    assert picture.shape == (4, 6) and picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[2:, 2:4], [[255, 255], [0, 128]])
    assert picture.sum() == 255 + 255 + 128
    assert nice.grid(np.zeros((2, 5, 4, 3)), 1, 2).shape == (5, 8, 3)
    assert nice.grid(np.zeros((2, 5, 4, 1)), 1, 2).shape == (5, 8)


def test_real_mnist():
    x_train, x_test, y_test = nice.load_images()
    assert x_train.shape == (60000, 28, 28) and x_test.shape == (10000, 28, 28)
    assert np.bincount(y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert x_train.dtype == np.float32 and x_train.min() == 0 and x_train.max() == 1


def test_a_run_leaves_what_it_promises(trained):
    history = nice.read_history(trained)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[2]["val_loss"] < history[0]["val_loss"] < 0
    for epoch in (1, 2, 3):
        assert imageio.imread(trained / "samples" / f"epoch_{epoch:03}.png").shape == (420, 420)
    assert len(imageio.imread(trained / "training.gif", index=None)) == 3
    assert json.loads((trained / "settings.json").read_text())["noise"] == 0.01
    assert not [*trained.glob("partial-*"), *trained.glob("backup*")]


def test_the_best_model_is_kept(trained, digits):
    encoder = nice.load_encoder(trained / "nice.keras")
    encoder.compile(loss=nice.gaussian_loss)
    _, x_test, _ = nice.load_images(digits)
    loss = encoder.evaluate(x_test, np.zeros(len(x_test)), verbose=0)
    best = min(row["val_loss"] for row in nice.read_history(trained))
    assert loss == pytest.approx(best, abs=0.01)


def test_recipes_and_options(digits, tmp_path):
    options = "--recipe", "article", "--noise", "0.02", "--seed", "7"
    assert train(digits, tmp_path, *options, epochs=1) == 0
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["learning_rate"] == 1e-3 and not settings["scale_from_data"]
    assert settings["noise"] == 0.02 and settings["seed"] == 7
    encoder = nice.load_encoder(tmp_path / "nice.keras")
    assert encoder.layers[2].width == 0.02 and encoder.layers[3].hidden_units == 32


def test_colour_images_of_another_size(tmp_path):
    rng = np.random.default_rng(0)
    data = tmp_path / "colour.npz"
    np.savez(data, x_train=rng.random((50, 6, 4, 3)), x_test=rng.random((10, 6, 4, 3)))
    assert train(data, tmp_path, epochs=1) == 0
    picture = imageio.imread(tmp_path / "samples" / "epoch_001.png")
    assert picture.shape == (15 * 6, 15 * 4, 3)


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_model_files_are_the_same_on_every_backend(backend, trained, tmp_path):
    if backend == keras.backend.backend() or not PathFinder.find_spec(backend):
        pytest.skip(f"{backend} is this backend, or not installed")
    program = """
import sys, numpy as np, nice
decoder = nice.build_decoder(nice.load_encoder(sys.argv[1]))
np.save(sys.argv[2], decoder.predict(nice.draw_codes("gaussian", 20, 784, 0.8, 0), verbose=0))
"""
    model, result = trained / "nice.keras", tmp_path / "images.npy"
    subprocess.run(
        [sys.executable, "-c", program, model, result],
        env=os.environ | {"KERAS_BACKEND": backend},
        cwd=ROOT,
        check=True,
    )
    decoder = nice.build_decoder(nice.load_encoder(model))
    here = decoder.predict(nice.draw_codes("gaussian", 20, 784, 0.8, 0), verbose=0)
    np.testing.assert_allclose(np.load(result), here, atol=1e-4)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x_test": np.zeros((9, 4, 4), "uint8")}, "no x_train"),
        ({"x_train": np.zeros((9, 4, 4), "uint8")}, "no x_test"),
        ({"x_train": np.zeros((0, 4, 4), "uint8")}, "holds no images"),
        ({"x_train": np.zeros(9, "uint8")}, "holds no images"),
        ({"x_train": np.array([{}, {}], object)}, "not a readable .npz"),
        ({"x_train": np.array(["a", "b"])}, "not pixel values"),
        ({"x_train": np.full((9, 4, 4), 256)}, "outside 0..255"),
        ({"x_train": np.full((9, 4, 4), -1)}, "outside 0..255"),
        ({"x_train": np.full((9, 4, 4), 1.5)}, "outside 0..1"),
        ({"x_train": np.full((9, 4, 4), np.nan)}, "outside 0..1"),
        ({"x_train": np.zeros((9, 3, 3), "uint8")}, "even number"),
        ({"x_train": np.zeros((9, 6, 6), "uint8")}, "differ in shape"),
    ],
)
def test_bad_images(arrays, words, tmp_path, refuse):
    data, output = tmp_path / "data.npz", tmp_path / "output"
    if len(arrays) == 1 and words not in ("no x_train", "no x_test"):
        shape = (9, 3, 3) if words == "even number" else (9, 4, 4)
        arrays = {**arrays, "x_test": np.zeros(shape, "uint8")}
    np.savez(data, **arrays)
    refuse(nice.main, ["--data", data, "--output", output], words)
    assert not output.exists()


def test_bad_data_files(digits, tmp_path, refuse, monkeypatch):
    output = ["--output", tmp_path / "output"]
    refuse(nice.main, ["--data", "missing.npz", *output], "missing.npz", "no such file")
    refuse(nice.main, ["--data", tmp_path, *output], tmp_path)
    bad = tmp_path / "bad.npz"
    for content in (b"", b"PK\3\4 and no more", digits.read_bytes()[:-1000]):
        bad.write_bytes(content)
        refuse(nice.main, ["--data", bad, *output], "bad.npz: not a readable .npz file")

    def no_network():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", no_network)
    refuse(nice.main, ["--data", "cifar10", *output], "cifar10", "URL fetch failure")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--batch-size", "0"],
        ["--epochs", "-1"],
        ["--learning-rate", "nan"],
        ["--noise", "-0.1"],
        ["--hidden-units", "many"],
        ["--recipe", "secret"],
        ["--no-such-option"],
    ],
)
def test_bad_options(arguments, refuse):
    refuse(nice.main, arguments, arguments[0])


def test_an_output_folder_that_cannot_be_written(digits, tmp_path, refuse):
    (tmp_path / "file").write_text("mine")
    refuse(nice.main, ["--data", digits, "--output", tmp_path / "file" / "output"], "file")
    refuse(nice.main, ["--data", digits, "--output", tmp_path / "file"], "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_finished_run_is_not_overwritten(trained, digits, refuse, capsys):
    before = (trained / "nice.keras").read_bytes()
    again = ["--data", digits, "--output", trained, "--epochs", "3", *SMALL]
    refuse(nice.main, again, "finished run", "--fresh")
    refuse(nice.main, [*again, "--seed", "1"], "seed 0, not 1")
    refuse(nice.main, [*again, "--hidden-units", "8"], "hidden_units 32, not 8")
    refuse(nice.main, ["--output", trained, "--epochs", "3", *SMALL], "data")
    refuse(nice.main, [*again, "--recipe", "article"], "noise 0.01, not 0.0")
    assert (trained / "nice.keras").read_bytes() == before


def test_a_model_from_elsewhere_is_not_overwritten(trained, digits, tmp_path, refuse):
    shutil.copy(trained / "nice.keras", tmp_path)
    refuse(nice.main, ["--data", digits, "--output", tmp_path, *SMALL], "nice.keras", "--fresh")


def test_fresh_starts_over(trained, digits, tmp_path, capsys):
    output = shutil.copytree(trained, tmp_path / "output")
    assert train(digits, output, "--fresh", epochs=2) == 0
    assert "replaces" in capsys.readouterr().out
    assert len(nice.read_history(output)) == 2
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
    refuse(nice.main, again, "history.csv", "--fresh")


def test_a_lock_that_cannot_be_made(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(ValueError, match="in use"):
        nice.claim(tmp_path)


def test_a_damaged_backup(trained, digits, tmp_path, refuse):
    output = shutil.copytree(trained, tmp_path / "output")
    (output / "training.gif").unlink()
    (output / "backup.keras").write_bytes(b"nonsense")
    again = ["--data", digits, "--output", output, "--epochs", "3", *SMALL]
    refuse(nice.main, again, "backup.keras", "--fresh")


def test_a_loss_that_is_not_finite(digits, tmp_path, capsys):
    assert train(digits, tmp_path, "--recipe", "article", "--learning-rate", "1e30") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--learning-rate" in error


def test_no_finite_test_loss(digits, tmp_path, monkeypatch, capsys):
    history = [{"epoch": 1, "loss": 5.0, "val_loss": float("nan")}]
    monkeypatch.setattr(nice, "train", lambda *_: history)
    assert train(digits, tmp_path) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nan" in error


@pytest.mark.parametrize("count", [1, 30])
def test_few_images(count, tmp_path):
    with np.load(nice.DATA) as mnist:
        x = mnist["x_train"][:count]
    np.savez(tmp_path / "few.npz", x_train=x, x_test=x)
    assert train(tmp_path / "few.npz", tmp_path, epochs=2) == 0


def test_the_papers_recipe(tmp_path, capsys, monkeypatch, refuse):
    with np.load(nice.DATA) as mnist:
        x = mnist["x_train"][:500]
    data = tmp_path / "digits.npz"
    np.savez(data, x_train=x, x_test=x[:4])
    paper = "--recipe", "paper"
    refuse(nice.main, ["--data", data, "--output", tmp_path, *paper], "holds back 10000")
    monkeypatch.setitem(nice.RECIPES, "holdout", (0, 0, 100))
    assert train(data, tmp_path, *paper, epochs=2) == 0
    output = capsys.readouterr().out
    line = re.search(r"^test log-likelihood: (.+) ± (.+) nats, (.+) bits/dim$", output, re.M)
    nats, error, bits = (float(value) for value in line.groups())
    assert 0 < error < 5
    assert bits == pytest.approx((784 * math.log(256) - nats) / (784 * math.log(2)), abs=1e-3)

    encoder = nice.load_encoder(tmp_path / "nice.keras")
    assert encoder.layers[-1].prior == "logistic" and encoder.layers[2].width == 1 / 256
    row = nice.read_history(tmp_path)[-1]
    assert row["val_log_likelihood"] == pytest.approx(-row["val_loss"])

    assert nice.main(["--evaluate", "--data", str(data), "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == line.group()


def test_evaluate_other_recipes(trained, digits, tmp_path, capsys, refuse):
    assert nice.main(["--evaluate", "--data", str(digits), "--output", str(trained)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("test log-likelihood: ") and "do not compare" in line
    assert "bits/dim" not in line
    refuse(nice.main, ["--evaluate", "--output", tmp_path], "nice.keras: no such model")
    np.savez(tmp_path / "a.npz", x_train=np.zeros((2, 4, 4)), x_test=np.zeros((2, 4, 4)))
    other = ["--data", tmp_path / "a.npz", "--output", trained]
    refuse(nice.main, ["--evaluate", *other], "shape (4, 4)", "(28, 28)")


@pytest.mark.parametrize("prior", nice.PRIORS)
def test_likelihood_agrees_with_float64(prior):
    """Walk the weights in NumPy, in double precision."""
    encoder = randomise(small_encoder((6, 4), prior=prior), deviation=0.2)
    images = np.random.default_rng(0).random((20, 6, 4))
    z = images.reshape(20, 24)
    for layer in encoder.layers[3:-1]:
        reverse = z[:, ::-1]
        shift = reverse[:, 0::2]
        for dense in layer.m.layers:
            kernel, bias = (keras.ops.convert_to_numpy(w).astype("float64") for w in dense.weights)
            shift = np.maximum(shift @ kernel + bias, 0)
        z = reverse.copy()
        z[:, 1::2] -= shift
    log_scale = keras.ops.convert_to_numpy(encoder.layers[-1].log_scale).astype("float64")
    z = z * np.exp(log_scale)
    if prior == "gaussian":
        density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    else:
        density = -np.logaddexp(0, z) - np.logaddexp(0, -z)
    expected = density.sum(axis=1) + log_scale.sum()
    np.testing.assert_allclose(nice.log_likelihood(encoder, images), expected, atol=1e-3)


def test_dequantised_training_images_are_the_papers(digits):
    x_train, x_test, _ = nice.load_images(digits)
    settings = {"noise": nice.GREY_LEVEL, "holdout": 0}
    upper, valid = nice.split(x_train, x_test, settings)
    layer = UniformNoise(nice.GREY_LEVEL)
    for x, pixels in ((layer(upper, training=True), 255 * x_train), (valid, 255 * x_test)):
        u = 256 * keras.ops.convert_to_numpy(x) - pixels
        assert u.min() > -1e-3 and u.max() < 1 + 1e-3
        assert u.mean() == pytest.approx(0.5, abs=0.01)


def test_several_devices(digits, trained, tmp_path, monkeypatch, capsys):
    """Four of JAX's virtual devices must train as one does; other backends must say they cannot."""
    backend = keras.backend.backend()
    if backend == "jax":
        code = "import sys; sys.path.insert(0, 'tests'); from conftest import train; "
        code += f"sys.exit(train({str(digits)!r}, {str(tmp_path)!r}))"
        environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
        command = [sys.executable, "-c", code]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert "training on 4 of 4 devices" in run.stdout, run.stderr
        losses = [
            [row["val_loss"] for row in nice.read_history(output)] for output in (tmp_path, trained)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-4)
        return
    if backend == "torch":
        monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    else:
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0"] * 4)
    nice.use_all_devices(100)
    assert capsys.readouterr().out.startswith("training on 1 of 4 devices: KERAS_BACKEND=jax")


@pytest.mark.parametrize(("last", "words"), [(-10.0, "fell apart"), (-99.0, "")])
def test_a_run_that_falls_apart_says_so(last, words, digits, tmp_path, monkeypatch, capsys):
    history = [{"epoch": i + 1, "loss": v, "val_loss": v} for i, v in enumerate((-50, -100, last))]
    monkeypatch.setattr(nice, "train", lambda *_: history)
    assert train(digits, tmp_path) == 0
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == bool(words)
    assert "best test loss -100.00, epoch 2 of 3" in captured.out
