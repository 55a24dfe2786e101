"""The examples: each through its command line, with a small model."""

from support import backends, data, pictures

import layers
import nice
from examples import affine, codes, denoise, likelihood, noise, plane

import math
import re
import shutil

import imageio.v3 as imageio
import numpy as np
import pytest
from conftest import numpy, randomise


@pytest.fixture
def model_path(trained, tmp_path):
    """A copy of a small model and of its settings, in a folder to draw into."""
    shutil.copy(trained / "settings.json", tmp_path)
    return shutil.copy(trained / "nice.keras", tmp_path)


def is_picture(path):
    """Whether a file holds a picture with more than one colour."""
    return np.ptp(imageio.imread(path)) > 0


# --- What the codes and the likelihood of images are like ----------------------------


def test_codes(model_path, tmp_path, capsys):
    assert codes.main(["--model", model_path]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^test images +\d", printed, re.M)
    assert is_picture(tmp_path / "spectrum.png")
    assert is_picture(tmp_path / "codes.png")


def test_the_spectrum_counts_dimensions(capsys):
    codes.spectrum(np.sqrt([1, 4, 1, 1, 1]))  # half of the variance is in one of them
    assert "1 of 5 dimensions hold 50% of variance" in capsys.readouterr().out


def test_a_gaussian_has_a_kurtosis_of_3(capsys):
    z = np.random.default_rng(0).normal(size=(20_000, 3))
    z[:, 0] = 1  # a constant dimension has none, and is left out
    codes.describe(z, z[:, 1:])
    for line in capsys.readouterr().out.splitlines()[1:]:
        kurtosis, heavy, close = re.findall(r"[\d.]+", line)
        assert float(kurtosis) == pytest.approx(3, abs=0.1)
        assert heavy == "0"
        assert float(close) == pytest.approx(20, abs=1)


def test_likelihood(model_path, digits, tmp_path, capsys):
    assert likelihood.main(["--model", model_path]) == 0
    printed = capsys.readouterr().out
    for kind in (*likelihood.PLOTTED, "uniform noise", "empty"):
        assert re.search(rf"^{kind} +-?\d+ nats", printed, re.M)
    _, (x_test, _) = data.load(digits)
    nats = nice.load(model_path).log_likelihood(x_test)
    assert f"test images   {nats.mean():9.0f} nats" in printed
    assert is_picture(tmp_path / "likelihood.png")
    assert is_picture(tmp_path / "extremes.png")


def test_the_likeliest_images_come_first():
    images = np.arange(60, dtype="uint8")[:, None, None] * np.ones((60, 8, 8), "uint8")
    sheet = likelihood.extremes_sheet(images, nats=np.arange(60))
    levels = sheet.images[:, :, 0, 0].ravel()
    np.testing.assert_array_equal(levels, np.arange(60)[::-1])


def test_every_image_is_on_the_axis():
    rng = np.random.default_rng(0)
    nats = {"near": rng.normal(1000, 100, 500), "far": -np.exp(rng.normal(7, 2, 300))}
    figure = likelihood.histograms(nats)
    for axes, (name, values) in zip(figure.axes, nats.items(), strict=True):
        (bars,) = axes.patches
        assert bars.get_data().values.sum() == len(values)
        left, right = axes.get_xlim()
        assert left <= values.min() + 0.1 and values.max() - 0.1 <= right
        (label,) = axes.texts
        mean = pictures.minus(f"mean {values.mean():,.0f}")
        assert name in label.get_text() and mean in label.get_text()
        place = likelihood.to_axis(values)
        np.testing.assert_allclose(likelihood.from_axis(place), values)


def test_likelihood_needs_30_test_images(model_path, digits, tmp_path, refuse):
    with np.load(digits) as arrays:
        few = {"x_train": arrays["x_train"], "x_test": arrays["x_test"][:29]}
    np.savez(tmp_path / "few.npz", **few)
    options = ["--model", model_path, "--data", tmp_path / "few.npz"]
    refuse(likelihood.main, options, "30 test images", "few.npz has 29")


# --- Points of the plane -------------------------------------------------------------


def test_plane(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        nice, "EVALUATION_BATCH", 20_000
    )  # small points, in fewer calls
    path = tmp_path / "plane.png"
    assert plane.main(["--epochs", 1, "--output", path]) == 0
    assert is_picture(path)
    (nats,) = re.findall(r"new points: (-?[\d.]+) nats", capsys.readouterr().out)
    assert math.isfinite(float(nats))


def test_cells_keep_their_areas():
    model = randomise(plane.build_flow())
    *areas, last = [plane.area(h) for h in plane.walk(model, plane.outline((0.2, 0.5)))]
    assert areas == pytest.approx([0.01] * 5, rel=0.01)
    assert last == pytest.approx(0.01 / np.prod(model.sigma), rel=0.01)


def test_densities_of_the_plane_sum_to_1():
    model = plane.build_flow()
    side = np.linspace(-8, 8, 321, dtype="float32")
    square = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    for density in plane.densities(model, [square] * 6):
        assert density.sum() * 0.05**2 == pytest.approx(1, abs=0.02)


# --- Noise ---------------------------------------------------------------------------


@pytest.fixture
def gaussian():
    """A flow that is a Gaussian: the scaling alone, with any log s."""
    model = nice.build_encoder((4, 2), couplings=0)
    return randomise(model, deviation=3.0)


def test_a_denoised_image_is_the_posterior_mean(gaussian):
    """If y is Gaussian, with a variance of v, x + n has v - sigma^2 of x in it."""
    sigma = 20.0
    y = np.random.default_rng(0).normal(0, 100, (500, 4, 2)).astype("float32")
    variance = (gaussian.levels * gaussian.sigma.reshape(4, 2)) ** 2
    expected = y * (variance - sigma**2) / variance
    found = denoise.denoise(gaussian, y, sigma)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(denoise.denoise(gaussian, y, 0.0), y)


def test_visible_noise_is_gaussian_seeded_and_new_each_epoch():
    images = np.full((300, 28, 28), 100, "uint8")
    batches = denoise.NoisyBatches(images, 30.0)
    (first,) = batches[0]
    noise = (first - 100.5) / 30
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert np.mean(noise**4) == pytest.approx(3, abs=0.1)
    np.testing.assert_array_equal(denoise.NoisyBatches(images, 30.0)[0][0], first)
    batches.start_epoch(1)
    assert np.mean(batches[0][0] == first) < 0.01


def test_denoise(digits, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(backends, "use_xla", lambda: "auto")
    monkeypatch.setattr(denoise, "COUPLINGS", 2)
    monkeypatch.setitem(nice.RECIPES["quick"].model, "hidden_units", 16)
    options = ["--data", digits, "--epochs", 1, "--plain", trained / "nice.keras"]
    assert denoise.main([*options, "--output", tmp_path / "denoise.png"]) == 0
    assert "affine, noise of 28: median kurtosis" in capsys.readouterr().out
    assert is_picture(tmp_path / "denoise.png")
    assert is_picture(tmp_path / "denoise-codes.png")
    model = nice.load(tmp_path / "denoise-affine.keras")
    assert isinstance(model.steps[0], affine.AffineCoupling)


def test_noise(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(backends, "use_xla", lambda: "auto")
    monkeypatch.setitem(nice.RECIPES["quick"].model, "hidden_units", 16)
    options = ["--data", digits, "--epochs", 2, "--output", tmp_path / "noise.png"]
    assert noise.main(options) == 0
    assert capsys.readouterr().out.count("largest s") == 2
    assert is_picture(tmp_path / "noise.png")


# --- A step of one's own -------------------------------------------------------------


def test_affine(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(backends, "use_xla", lambda: "auto")  # XLA is slow to start
    monkeypatch.setitem(nice.RECIPES["quick"].model, "hidden_units", 16)
    path = tmp_path / "affine.png"
    assert affine.main(["--data", digits, "--epochs", 1, "--output", path]) == 0
    printed = capsys.readouterr().out
    for name in ("NICE", "affine"):
        line = rf"^{name}: .* 200 test images: -?[\d.]+ ± [\d.]+ nats, [\d.]+ bits"
        assert re.search(line, printed, re.M)
    assert is_picture(path)


def test_an_affine_coupling_learns_from_its_start():
    """Its last layer starts at zeros, which must leave it a gradient."""
    flow = nice.Flow((4, 2), [affine.AffineCoupling(1, 8), layers.DiagonalScaling()])
    flow.compile("adam", jit_compile=False)
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 2), dtype="uint8")
    flow.fit(nice.Batches(images, 50), epochs=2, verbose=0)
    output = flow.steps[0].m.layers[-1]
    assert np.any(numpy(output.kernel) != 0)
