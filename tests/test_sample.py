"""Drawing from a model file."""

import subprocess
import sys
from importlib.util import find_spec

import imageio.v3 as imageio
import keras
import numpy as np
import pytest
from conftest import randomise

import nice
import sample


@pytest.fixture
def encoder(trained):
    return nice.load_encoder(trained / "nice.keras")


@pytest.fixture
def images(digits):
    return nice.load_images(digits)[1]


def draw(trained, output, *options):
    arguments = ["--model", trained / "nice.keras", "--output", output, *options]
    assert not sample.main([str(argument) for argument in arguments])
    return imageio.imread(output)


def test_the_default_grid(trained, tmp_path):
    picture = draw(trained, tmp_path / "new folder" / "a.png")
    assert picture.shape == (15 * 28, 15 * 28) and picture.dtype == np.uint8
    assert picture.std() > 0


def test_the_seed_decides(trained, tmp_path):
    first, again, other = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    draw(trained, first, "--seed", 3)
    draw(trained, again, "--seed", 3)
    draw(trained, other, "--seed", 4)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


def test_temperature_zero_draws_the_mode(trained, tmp_path):
    picture = draw(trained, tmp_path / "a.png", "--temperature", 0, "--rows", 2, "--columns", 3)
    assert picture.shape == (56, 84)
    for row in (0, 28):
        for column in (0, 28, 56):
            image = picture[row : row + 28, column : column + 28]
            np.testing.assert_array_equal(image, picture[:28, :28])


def test_the_grid_is_the_decoders(trained, tmp_path):
    picture = draw(trained, tmp_path / "a.png", "--rows", 2, "--columns", 2, "--temperature", 0.7)
    decoder = nice.build_decoder(nice.load_encoder(trained / "nice.keras"))
    images = decoder.predict(nice.draw_codes("gaussian", 4, 784, 0.7, seed=0), verbose=0)
    np.testing.assert_allclose(picture[28:, :28], 255 * images[2].clip(0, 1), atol=1)


@pytest.mark.parametrize(
    "arguments",
    [["--temperature", "-1"], ["--rows", "0"], ["--columns", "x"], ["--seed", "-1"]],
)
def test_bad_options(arguments, refuse):
    refuse(sample.main, arguments, arguments[0])


def test_stderr_has_nothing_but_the_error(trained, tmp_path):
    bad = tmp_path / "bad.keras"
    bad.write_bytes((trained / "nice.keras").read_bytes()[:-1000])
    command = [sys.executable, sample.__file__, "--model", bad]
    error = subprocess.run(command, capture_output=True, text=True).stderr
    assert error.startswith("sample.py: error: ") and error.count("\n") == 1


def test_bad_models(trained, tmp_path, refuse):
    output = tmp_path / "samples.png"
    output.write_text("mine")
    model = (trained / "nice.keras").read_bytes()
    bad = tmp_path / "bad.keras"
    refuse(sample.main, ["--model", bad, "--output", output], "no such model", "python nice.py")
    middle = len(model) // 2
    damaged = model[:middle] + bytes([model[middle] ^ 1]) + model[middle + 1 :]
    for content in (b"", model[:1000], model[:-1000], damaged):
        bad.write_bytes(content)
        refuse(sample.main, ["--model", bad, "--output", output], "bad.keras: not a usable NICE")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(bad)
    refuse(sample.main, ["--model", bad, "--output", output], "not a NICE encoder")
    assert output.read_text() == "mine"


def test_a_picture_that_cannot_be_written(trained, tmp_path, refuse):
    model = ["--model", trained / "nice.keras"]
    (tmp_path / "file").write_text("mine")
    refuse(sample.main, [*model, "--output", tmp_path / "file" / "a.png"], "file")
    refuse(sample.main, [*model, "--output", tmp_path / "a.unknown"], "a.unknown")
    assert not list(tmp_path.glob("*unknown"))


def test_interpolation_starts_and_ends_at_the_images(encoder, images):
    paths = sample.interpolate(encoder, images[:3], images[3:6], steps=5)
    assert paths.shape == (6, 5, 28, 28)
    for block in (paths[:3], paths[3:]):
        np.testing.assert_allclose(block[:, 0], images[:3], atol=1e-5)
        np.testing.assert_allclose(block[:, -1], images[3:6], atol=1e-5)
    lines, circles = (encoder.predict(paths[i : i + 3, 2], verbose=0) for i in (0, 3))
    a, b = encoder.predict(images[:3], verbose=0), encoder.predict(images[3:6], verbose=0)
    np.testing.assert_allclose(lines, (a + b) / 2, atol=1e-3)
    norms = [np.linalg.norm(code, axis=1) for code in (a, b, lines, circles)]
    assert (norms[3] > norms[2]).all()
    assert (norms[3] > np.minimum(norms[0], norms[1]) - 1e-2).all()


def test_interpolation_of_an_image_with_itself(encoder, images):
    paths = sample.interpolate(encoder, images[:1], images[:1], steps=3)
    np.testing.assert_allclose(paths, np.broadcast_to(images[0], paths.shape), atol=1e-4)


def test_pairs_have_different_labels(digits):
    _, x_test, labels = nice.load_images(digits)
    index = {image.tobytes(): label for image, label in zip(x_test, labels, strict=True)}
    first, second = sample.pick(x_test, labels, 20, seed=1)
    for a, b in zip(first, second, strict=True):
        assert index[a.tobytes()] != index[b.tobytes()]


def test_traversal_moves_one_dimension_a_row(encoder, images):
    moved = sample.traverse(encoder, images[:2], dimensions=3, steps=5)
    assert moved.shape == (12, 5, 28, 28)
    sigma = sample.sigma(encoder)
    order = np.argsort(sigma)
    for row, dimension in enumerate([*order[:-4:-1], *order[:3]] * 2):
        codes = encoder.predict(moved[row], verbose=0)
        change = codes - encoder.predict(images[row // 6 : row // 6 + 1], verbose=0)
        np.testing.assert_allclose(change[:, dimension], [-3, -1.5, 0, 1.5, 3], atol=1e-2)
        change[:, dimension] = 0
        assert abs(change).max() < 1e-2


def test_spectrum_is_the_layers(encoder, trained, tmp_path, capsys):
    scaling = encoder.layers[-1]
    scaling.weight.assign(np.linspace(-2, 3, 784) / scaling.factor)
    np.testing.assert_allclose(sample.sigma(encoder), np.exp(-np.linspace(-2, 3, 784)), rtol=1e-5)
    model = tmp_path / "model.keras"
    encoder.save(model)
    output = tmp_path / "spectrum.png"
    arguments = ["spectrum", "--model", str(model), "--output", str(output)]
    if find_spec("matplotlib"):
        assert not sample.main(arguments)
        assert imageio.imread(output).shape[2] == 3
    else:
        with pytest.raises(SystemExit):
            sample.main(arguments)
    variance = np.exp(-2 * np.linspace(-2, 3, 784))
    share = np.cumsum(variance) / variance.sum()
    lines = capsys.readouterr().out.splitlines()
    for line, part in zip(lines, (0.5, 0.9, 0.99), strict=False):
        assert int(line.split()[0]) == np.argmax(share >= part) + 1


def test_without_matplotlib_the_spectrum_is_numbers(trained, tmp_path, monkeypatch, refuse):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    arguments = ["spectrum", "--model", trained / "nice.keras", "--output", tmp_path / "a.png"]
    refuse(sample.main, arguments, "pip install matplotlib")


def test_reconstruction_is_exact(encoder, images):
    rows = sample.reconstruct(encoder, images[:50])
    assert rows.shape == (50, 3, 28, 28)
    np.testing.assert_array_equal(rows[:, 0], images[:50])
    np.testing.assert_allclose(rows[:, 1], images[:50], atol=1e-5)
    assert rows[:, 2].max() < 0.1


def test_annealing_decodes_the_same_codes(encoder):
    images = sample.anneal(encoder, 4, [0.5, 1.0], seed=3)
    assert images.shape == (4, 2, 28, 28)
    cold, warm = (encoder.predict(images[:, column], verbose=0) for column in (0, 1))
    np.testing.assert_allclose(2 * cold, warm, atol=1e-2)


def test_masks_hide_what_they_say():
    masks = sample.masks((28, 28))
    share = {name: hidden.mean() for name, hidden in masks.items()}
    assert share.pop("random 75%") == pytest.approx(0.75, abs=0.05)
    assert set(share.values()) == {0.5} and len(share) == 5
    assert masks["top half"][:14].all() and masks["left half"][:, :14].all()
    colour = sample.masks((6, 4, 3))["random 75%"]
    assert colour.shape == (6, 4, 3) and (colour[..., 0] == colour[..., 2]).all()


def test_inpainting_leaves_the_observed_and_climbs(encoder, images):
    hidden = np.broadcast_to(sample.masks((28, 28))["left half"], (4, 28, 28))
    start = sample.inpaint(encoder, images[:4], hidden, steps=0)
    found = sample.inpaint(encoder, images[:4], hidden, steps=50)
    np.testing.assert_array_equal(found[~hidden], images[:4][~hidden])
    assert found.min() >= 0 and found.max() <= 1
    assert (nice.log_likelihood(encoder, found) > nice.log_likelihood(encoder, start)).all()


def test_gradient_is_the_difference_quotient():
    encoder = randomise(nice.build_encoder((2, 3), 2, 1, 8))
    x = np.random.default_rng(0).random((1, 2, 3), dtype="float32")

    def f(x):
        return -nice.gaussian_loss(None, encoder(x))

    slope = sample.gradient(f)(x)
    for position in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[position] += 1e-3
        down[position] -= 1e-3
        quotient = (nice.log_likelihood(encoder, up) - nice.log_likelihood(encoder, down)) / 2e-3
        assert slope[position] == pytest.approx(quotient[0], rel=0.05, abs=0.05)


@pytest.mark.parametrize(
    ("picture", "shape"),
    [
        ("interpolate", (4, 10)),
        ("traverse", (16, 9)),
        ("inpaint", (2, 18)),
        ("reconstruct", (2, 3)),
        ("anneal", (2, 8)),
        ("extremes", (4, 15)),
    ],
)
def test_each_picture_from_the_command_line(
    picture, shape, trained, digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sample.inpaint, "__defaults__", (3, 0))  # three steps will do here
    output = tmp_path / "a.png"
    model = ["--model", str(trained / "nice.keras"), "--data", str(digits), "--rows", "2"]
    assert not sample.main([picture, *model, "--output", str(output)])
    image = imageio.imread(output)
    assert image.shape == (28 * shape[0], 28 * shape[1]) and image.dtype == np.uint8
    assert image.max() == 255
    printed = capsys.readouterr().out
    words = {"inpaint": "random 75%", "reconstruct": "largest error", "anneal": "deviation"}
    assert words.get(picture, "a.png") in printed


def test_strangers_are_what_they_are_called(encoder, images):
    kinds = sample.strangers(encoder, images[:50])
    noise = encoder.layers[2].width
    assert 0 <= (images[:50] - kinds["test images"]).min() <= noise
    upright = kinds["upside down"][:, ::-1, ::-1]
    np.testing.assert_allclose(upright, images[:50], atol=1.01 * noise)
    assert kinds["uniform noise"].std() == pytest.approx(1 / np.sqrt(12), rel=0.05)
    # Samples at temperature 1 must be as likely as codes of the prior say they are.
    codes = nice.draw_codes("gaussian", 50, 784, 1.0, 0)
    log_determinant = -np.log(sample.sigma(encoder)).sum()
    expected = log_determinant - 0.5 * (codes**2).sum(axis=1) - 392 * np.log(2 * np.pi)
    measured = nice.log_likelihood(encoder, kinds["its samples"])
    np.testing.assert_allclose(measured, expected, rtol=1e-3)


def test_likelihood_histograms(trained, digits, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    model = ["--model", str(trained / "nice.keras"), "--data", str(digits)]
    assert not sample.main(["likelihood", *model, "--output", str(tmp_path / "a.png")])
    assert imageio.imread(tmp_path / "a.png").shape[2] == 3
    means = [float(line[14:].split()[0]) for line in capsys.readouterr().out.splitlines()[:4]]
    assert means[0] > means[1] > means[2]  # digits, upside down, noise: it has learnt something


def test_extremes_are_sorted(encoder, images):
    chosen = sample.extremes(encoder, images, 2, 10)
    assert chosen.shape == (4, 10, 28, 28)
    noisy = nice.add_noise(images, encoder.layers[2].width, 0)
    nats = nice.log_likelihood(encoder, noisy)
    best, worst = images[nats.argmax()], images[nats.argmin()]
    np.testing.assert_array_equal(chosen[0, 0], best)
    np.testing.assert_array_equal(chosen[-1, -1], worst)
    with pytest.raises(ValueError, match="needs 220 images, not 200"):
        sample.extremes(encoder, images, 11, 10)


@pytest.mark.parametrize("picture", sample.MOVING)
def test_what_moves_can_be_an_animation(picture, trained, digits, tmp_path):
    model = ["--model", str(trained / "nice.keras"), "--data", str(digits), "--rows", "2"]
    output = tmp_path / "a.gif"
    assert not sample.main([picture, *model, "--output", str(output)])
    assert len(imageio.imread(output, index=None)) > 8


def test_bad_pictures(trained, digits, tmp_path, refuse):
    model = ["--model", trained / "nice.keras", "--data", digits]
    refuse(sample.main, ["inpaint", *model, "--output", tmp_path / "a.gif"], "a.gif", ".png")
    refuse(sample.main, ["anneal", *model, "--output", tmp_path / "a.mp4"], "a.mp4", ".gif")
    refuse(sample.main, ["unravel", *model], "unravel")
    refuse(sample.main, ["traverse", *model, "--rows", "101"], "--rows 101", "200")
    np.savez(tmp_path / "a.npz", x_train=np.zeros((9, 4, 4)), x_test=np.zeros((9, 4, 4)))
    other = ["traverse", "--model", trained / "nice.keras", "--data", tmp_path / "a.npz"]
    refuse(sample.main, [*other, "--output", tmp_path / "a.png"], "shape (4, 4)", "(28, 28)")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz"]
