"""Drawing from a model: each picture, its options, and the command line."""

import functools
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import keras
import numpy as np
import pytest
from conftest import randomise

import nice
import sample
from layers import LogisticPrior
from support import backends, command_line, data, pictures
from support.batches import Batches
from support.pictures import Sheet


@pytest.fixture(scope="module")
def encoder(trained):
    return nice.load_encoder(trained / "nice.keras")


@pytest.fixture(scope="module")
def test_set(digits):
    """x_test and y_test."""
    return data.load_test_images(digits)


def untrained(image_shape=(6, 4), prior="gaussian", **changes):
    """A small encoder of random weights, which has no density fitted to its codes."""
    changes = {"prior": prior, "scale_speed": 1.0, **changes}
    recipe = nice.Recipe(couplings=2, hidden_layers=1, hidden_units=8, **changes)
    return randomise(nice.build_encoder(image_shape, recipe))


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype="uint8")


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def sigma(encoder):
    return encoder.get_layer("scaling").sigma


@pytest.fixture
def drawn_axes(monkeypatch):
    """Have plots return matplotlib's axes, not pixels."""
    from matplotlib.figure import Figure

    def plot(draw, rows=1, columns=1, **_):
        axes = Figure().subplots(rows, columns)
        draw(axes)
        return axes

    monkeypatch.setattr(pictures, "plot", plot)


@pytest.fixture
def replace_picture(monkeypatch):
    """Replace a picture by one of its signature that notes its arguments, and is quickly drawn."""

    def replace(name, made=None):
        function, calls = sample.PICTURES[name], []

        @functools.wraps(function)
        def stand_in(*args, **kwargs):
            calls.append(inspect.signature(function).bind(*args, **kwargs).arguments)
            return Sheet(np.zeros((1, 1, 2, 2))) if made is None else made

        monkeypatch.setitem(sample.PICTURES, name, stand_in)
        return calls

    return replace


def run(*arguments):
    assert sample.main([str(argument) for argument in arguments]) == 0


# --- Codes and images ------------------------------------------------------------------------


def test_decode_undoes_encode():
    encoder, images = untrained(), random_images(12, 6, 4)
    codes = sample.encode(encoder, images)
    assert codes.shape == (12, 24) and codes.dtype == np.float32
    decoded = sample.decode(encoder, codes.reshape(3, 4, 24))
    np.testing.assert_allclose(decoded, images.reshape(3, 4, 6, 4), atol=0.01)


def test_many_codes_are_decoded_in_parts(monkeypatch):
    sizes = []

    def build_decoder(encoder):
        return lambda codes: sizes.append(len(codes)) or keras.ops.convert_to_tensor(2 * codes)

    monkeypatch.setattr(nice, "build_decoder", build_decoder)
    codes = np.random.default_rng(0).normal(size=(2, 1250, 24)).astype("float32")
    images = sample.decode(untrained(), codes)
    np.testing.assert_array_equal(images, 2 * codes.reshape(2, 1250, 6, 4))
    assert max(sizes) <= 1000 and sum(sizes) == 2500


def test_pairs_have_different_labels(test_set):
    x_test, y_test = test_set
    index = {image.tobytes(): i for i, image in enumerate(x_test)}
    assert len(index) == len(x_test)
    first, second = sample.pairs(x_test, y_test, 40, seed=1)
    a, b = ([index[image.tobytes()] for image in images] for images in (first, second))
    assert len({*a, *b}) == 80
    assert (y_test[a] != y_test[b]).all()
    again, other = (sample.pairs(x_test, y_test, 40, seed)[0] for seed in (1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_pairs_without_labels(test_set):
    first, second = sample.pairs(test_set[0], None, 100, seed=0)
    assert len({image.tobytes() for image in np.concatenate([first, second])}) == 200
    with pytest.raises(ValueError, match="--rows 101 needs 202 test images, the data has 200"):
        sample.pairs(test_set[0], None, 101, seed=0)


def test_choose(test_set):
    images = test_set[0]
    chosen = sample.choose(images, 200, seed=3)
    assert {image.tobytes() for image in chosen} == {image.tobytes() for image in images}
    np.testing.assert_array_equal(sample.choose(images, 5, seed=3), chosen[:5])
    assert (sample.choose(images, 5, seed=4) != chosen[:5]).any()
    with pytest.raises(ValueError, match="needs 201 test images, the data has 200"):
        sample.choose(images, 201, seed=0)


def test_pairs_where_one_label_is_all_there_is():
    images = random_images(6, 2, 2)
    first, second = sample.pairs(images, np.zeros(6), 3, seed=0)
    assert all((a != b).any() for a, b in zip(first, second, strict=True))


# --- Samples ---------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["fitted", "prior"])
def test_samples_are_decoded_codes(source, encoder):
    images = sample.samples(
        encoder, rows=2, columns=3, temperature=0.7, source=source, seed=5
    ).images
    z = encoder.get_layer(source).sample(6, temperature=0.7, seed=5)
    decoded = array(nice.build_decoder(encoder)(z)).reshape(2, 3, 28, 28)
    np.testing.assert_allclose(images, decoded, atol=1e-2)


def test_samples_by_default_are_of_the_fitted_density_at_temperature_0_8(encoder):
    default = sample.samples(encoder).images
    assert default.shape == (15, 15, 28, 28)
    same = sample.samples(encoder, temperature=0.8, source="fitted", seed=0).images
    np.testing.assert_array_equal(default, same)
    for options in ({"temperature": 1.0}, {"source": "prior"}, {"seed": 1}):
        assert (sample.samples(encoder, **options).images != default).any()


def test_at_temperature_zero_the_prior_draws_its_mode(encoder):
    images = sample.samples(encoder, rows=2, columns=3, temperature=0.0, source="prior").images
    mode = array(nice.build_decoder(encoder)(np.zeros((1, 784), "float32")))[0]
    np.testing.assert_allclose(images, np.broadcast_to(mode, images.shape), atol=1e-2)


def test_a_model_without_a_fitted_density_draws_from_its_prior_and_says_so(capsys):
    encoder = untrained()
    images = sample.samples(encoder, rows=1, columns=4).images
    assert "no density was fitted" in capsys.readouterr().out
    expected = sample.samples(encoder, rows=1, columns=4, source="prior").images
    assert capsys.readouterr().out == ""
    np.testing.assert_array_equal(images, expected)


# --- Paths between images --------------------------------------------------------------------


def test_interpolation_starts_and_ends_at_the_images(encoder, test_set):
    sheet = sample.interpolate(encoder, *test_set, rows=3, columns=5, seed=2)
    first, second = sample.pairs(*test_set, 3, seed=2)
    assert sheet.images.shape == (6, 5, 28, 28)
    assert sheet.row_labels == ["line"] * 3 + ["circle"] * 3
    for block in (sheet.images[:3], sheet.images[3:]):
        np.testing.assert_allclose(block[:, 0], first, atol=0.05)
        np.testing.assert_allclose(block[:, -1], second, atol=0.05)


def test_a_code_of_zeros_has_a_circle():
    """That of a black image, without noise or biases."""
    recipe = nice.Recipe(couplings=1, hidden_layers=1, hidden_units=8, noise=0.0)
    images = np.concatenate([np.zeros((2, 4, 4), "uint8"), random_images(2, 4, 4)])
    sheet = sample.interpolate(nice.build_encoder((4, 4), recipe), images, None, rows=2, columns=3)
    assert np.isfinite(sheet.images).all()


def test_lines_are_straight_and_the_length_changes_evenly_along_circles(encoder, test_set):
    sheet = sample.interpolate(encoder, *test_set, rows=4, columns=7)
    codes = sample.encode(encoder, sheet.images.reshape(-1, 28, 28)).reshape(8, 7, 784)
    t = np.linspace(0, 1, 7)[:, None]
    ends = codes[:, :1], codes[:, -1:]
    straight = (1 - t) * ends[0] + t * ends[1]
    np.testing.assert_allclose(codes[:4], straight[:4], atol=2e-3)
    lengths = np.linalg.norm(codes, axis=-1)
    evenly = lengths[:, :1] * (1 - t.T) + lengths[:, -1:] * t.T
    assert (lengths[:4, 1:-1] < 0.99 * evenly[:4, 1:-1]).all()
    np.testing.assert_allclose(lengths[4:], evenly[4:], rtol=1e-3)
    # Along a circle the angle to the start changes evenly too.
    cosines = np.sum(codes[4:] * ends[0][4:], axis=-1) / (lengths[4:] * lengths[4:, :1])
    angles = np.arccos(np.clip(cosines, -1, 1))
    np.testing.assert_allclose(angles, angles[:, -1:] * t.T, atol=1e-2)


def test_interpolation_of_an_image_with_its_equal(encoder, test_set):
    x_test = np.repeat(test_set[0][:1], 2, axis=0)
    images = sample.interpolate(encoder, x_test, None, rows=1, columns=3).images
    np.testing.assert_allclose(images, np.broadcast_to(x_test[0], images.shape), atol=0.1)


@pytest.mark.parametrize("columns", [1, 4, 5])
@pytest.mark.parametrize("prior", ["gaussian", "logistic"])
def test_traversal_of_single_dimensions(prior, columns):
    encoder, x_test = untrained(prior=prior), random_images(20, 6, 4)
    sheet = sample.traverse(encoder, x_test, rows=2, columns=columns, dimensions=3)
    assert sheet.images.shape == (12, columns, 6, 4)
    originals = sample.choose(x_test, 2, seed=0)
    order = np.argsort(-sigma(encoder))
    amounts = {1: [0], 4: [-3, -1.5, 0, 1.5], 5: [-3, -1.5, 0, 1.5, 3]}[columns]
    assert sheet.column_labels == [f"{amount:+.1f}" for amount in amounts]
    deviation = np.pi / np.sqrt(3) if prior == "logistic" else 1
    for row, dimension in enumerate([*order[:3], *order[-3:]] * 2):
        image = originals[row // 6]
        np.testing.assert_allclose(sheet.images[row, columns // 2], image, atol=0.01)
        codes = sample.encode(encoder, sheet.images[row])
        change = codes - sample.encode(encoder, image[None])
        moved = deviation * np.array(amounts)
        np.testing.assert_allclose(change[:, dimension], moved, atol=1e-3)
        change[:, dimension] = 0
        assert abs(change).max() < 1e-3
        assert sheet.row_labels[row] == f"sigma {sigma(encoder)[dimension]:.3f}"


def test_traversal_of_directions(encoder, test_set):
    """Each is crossed from -3 to +3 deviations of the codes along it, the image in the middle."""
    sheet = sample.traverse(encoder, test_set[0], rows=1, columns=5, dimensions=2)
    rows = [i for i, label in enumerate(sheet.row_labels) if label.startswith("direction")]
    assert len(rows) == 2 and len(sheet.row_labels) == len(sheet.images)
    image = sample.choose(test_set[0], 1, seed=0)[0]
    every = sample.encode(encoder, test_set[0]) * sigma(encoder)
    ends = []
    for images in sheet.images[rows]:
        np.testing.assert_allclose(images[2], image, atol=0.05)
        h = sample.encode(encoder, images) * sigma(encoder)
        change = h - h[2]
        parts = np.array([-1, -0.5, 0, 0.5, 1])[:, None] * change[4]
        np.testing.assert_allclose(change, parts, atol=1e-3 * abs(change).max())
        length = np.linalg.norm(change[4])
        assert np.std(every @ change[4] / length) == pytest.approx(length / 3, rel=1e-2)
        ends.append(change[4])
    assert abs(ends[0] @ ends[1]) < 1e-2 * np.linalg.norm(ends[0]) * np.linalg.norm(ends[1])


def test_traversal_of_more_directions_than_there_are(encoder, test_set):
    sheet = sample.traverse(encoder, test_set[0], rows=1, columns=1, dimensions=60)
    assert len(sheet.row_labels) == len(sheet.images)
    assert sum(label.startswith("sigma") for label in sheet.row_labels) == 120


def test_stages_lead_from_codes_to_images_and_back(encoder, test_set):
    sheet = sample.stages(encoder, test_set[0], rows=3, temperature=0.5, source="prior", seed=4)
    assert sheet.row_labels == ["random code"] * 3 + ["test image"] * 3
    assert sheet.column_labels == ["code", "/ s", "coupling 2", "coupling 1"]
    assert sheet.images.shape == (6, 4, 28, 28)
    drawn = encoder.get_layer("prior").sample(3, temperature=0.5, seed=4)
    images = sample.choose(test_set[0], 3, seed=4)
    codes = np.concatenate([drawn, sample.encode(encoder, images)])
    flat = sheet.images.reshape(6, 4, 784)
    np.testing.assert_allclose(flat[:, 0], 128 + 40 * codes, atol=1e-2)
    levels = encoder.get_layer("grey_levels").levels
    np.testing.assert_allclose(flat[:, 1], levels * codes * sigma(encoder), atol=1e-2)
    # A coupling reverses the dimensions, and lets one half of them through unchanged.
    coupling = encoder.get_layer("coupling_2")
    h = keras.ops.convert_to_tensor(flat[:, 1] / levels)
    undone = levels * array(coupling.inverse(h))
    np.testing.assert_allclose(flat[:, 2], undone, atol=1e-2)
    decoded = sample.decode(encoder, codes[:, None])[:, 0]
    np.testing.assert_allclose(sheet.images[:, -1], decoded, atol=1e-2)
    np.testing.assert_allclose(sheet.images[3:, -1], images, atol=1e-2)


def test_stages_show_a_learned_priors_codes_around_mid_grey(test_set):
    """Its means are not 0: they are pixels, and most of these are black."""
    encoder = untrained((28, 28), prior="mixture")
    nice.start_from_data(encoder, Batches(test_set[0], np.arange(200), 200))
    codes = sample.stages(encoder, test_set[0], rows=30, source="prior").images[:, 0]
    prior = encoder.get_layer("prior")
    assert abs(prior.mean / prior.deviation).max() > 2
    for block in (codes[:30], codes[30:]):
        assert block.mean() == pytest.approx(128, abs=4)


def test_annealing_warms_the_same_codes(encoder, test_set, capsys):
    x_test, _ = test_set
    x_train = x_test[::-1][:150]
    sheet = sample.anneal(encoder, x_train, x_test, rows=3, columns=8, source="prior", seed=3)
    assert sheet.images.shape == (3, 8, 28, 28)
    assert sheet.column_labels == "0.50 0.60 0.70 0.80 0.90 1.00 1.10 1.20".split()
    z = encoder.get_layer("prior").sample(3, temperature=1.0, seed=3)
    for column, temperature in enumerate(np.linspace(0.5, 1.2, 8)):
        codes = sample.encode(encoder, sheet.images[:, column])
        np.testing.assert_allclose(codes, temperature * z, atol=2e-3)
    _, *lines = capsys.readouterr().out.splitlines()
    numbers = {line[:16].strip(): [float(x) for x in line[16:].split()] for line in lines}
    np.testing.assert_allclose(numbers["the prior's"], 1, atol=0.02)
    for name, images in (("training images", x_train), ("test images", x_test)):
        z = sample.encode(encoder, images)
        length = np.median(np.linalg.norm(z, axis=1)) / 28
        np.testing.assert_allclose(numbers[name], [np.median(z.std(axis=0)), length], atol=0.02)


# --- What a model knows ----------------------------------------------------------------------


def test_spectrum_counts_the_dimensions_of_the_variance(capsys, drawn_axes):
    encoder, log_scale = untrained(), np.linspace(-2, 3, 24)
    scaling = encoder.get_layer("scaling")
    scaling.log_scale_over_speed.assign(np.random.default_rng(0).permutation(log_scale))
    axes = sample.spectrum(encoder)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.exp(-log_scale), rtol=1e-5)
    share = np.cumsum(np.exp(-2 * log_scale))
    lines = capsys.readouterr().out.splitlines()
    for line, part in zip(lines, (0.5, 0.9, 0.99), strict=True):
        count = np.argmax(share >= part * share[-1]) + 1
        assert line.split()[:3] == [str(count), "of", "24"] and f"{part:.0%}" in line


@pytest.mark.parametrize("prior", ["gaussian", "logistic"])
def test_codes_are_compared_with_the_priors_density(prior, drawn_axes, capsys):
    encoder = untrained(prior=prior, noise=0.0)
    layer = encoder.get_layer("prior")
    x_test = random_images(300, 6, 4)
    x_test[7] = 255 - x_test[7] // 20  # an outlier, for some kurtosis
    axes = sample.codes(encoder, x_test, dimensions=3).flat
    x = np.linspace(-3.95, 3.95, 80)
    if isinstance(layer, LogisticPrior):
        density = layer.deviation / 4 / np.cosh(layer.deviation * x / 2) ** 2
    else:
        density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    order = np.argsort(-sigma(encoder))
    # Not just any three dimensions: the ends of the order, and its middle.
    for ax, dimension in zip(axes, order[[0, 12, 23]], strict=False):
        assert ax.get_title() == f"sigma {sigma(encoder)[dimension]:.3f}"
        np.testing.assert_allclose(ax.lines[0].get_xdata(), x, atol=1e-6)
        np.testing.assert_allclose(ax.lines[0].get_ydata(), density, atol=0.06)
    z = sample.encode(encoder, x_test).astype("float64") / layer.deviation
    centred = z - z.mean(axis=0)
    kurtosis = np.median(np.mean(centred**4, axis=0) / np.mean(centred**2, axis=0) ** 2)
    lines = capsys.readouterr().out.splitlines()
    assert float(lines[0].split(": ")[1].split()[0]) == pytest.approx(kurtosis, abs=0.06)
    inside, of_the_prior = (float(word.split("%")[0]) for word in lines[2].split(": ")[1:])
    assert inside == pytest.approx(100 * np.mean(abs(z) < 0.25), abs=1)
    assert of_the_prior == pytest.approx(22.3 if prior == "logistic" else 19.7, abs=2)


def test_codes_are_compared_with_a_learned_priors_own_draws(drawn_axes, capsys):
    """Its dimensions are not centred, and have no one density where there are groups."""
    encoder = untrained(prior="grouped")
    x_test = random_images(300, 6, 4)
    layer = encoder.get_layer("prior")
    layer.adapt(sample.encode(encoder, x_test))
    axes = sample.codes(encoder, x_test, dimensions=1).flat
    seen, drawn = axes[0].patches, axes[0].lines[0].get_ydata()
    counts = np.array([bar.get_height() for bar in seen])
    assert 0.1 * counts.sum() == pytest.approx(1, abs=0.01) and drawn.max() < 40
    near, expected = (
        float(word.split("%")[0])
        for word in capsys.readouterr().out.splitlines()[2].split(": ")[1:]
    )
    assert near == pytest.approx(expected, abs=10)


@pytest.mark.parametrize("dimensions", [1, 7, 8, 60])
def test_any_number_of_codes(dimensions, drawn_axes):
    axes = sample.codes(untrained(), random_images(20, 6, 4), dimensions=dimensions)
    drawn = [ax for ax in axes.flat if ax.lines]
    assert len(drawn) == min(dimensions, 24)


def test_reconstruction_is_exact(encoder, test_set, capsys):
    sheet = sample.reconstruct(encoder, test_set[0], rows=50)
    images = sample.choose(test_set[0], 50, seed=0)
    assert sheet.images.shape == (50, 3, 28, 28)
    np.testing.assert_array_equal(sheet.images[:, 0], images)
    np.testing.assert_allclose(sheet.images[:, 1], images, atol=0.01)
    difference = abs(sheet.images[:, 1] - images)
    np.testing.assert_allclose(sheet.images[:, 2], 1e4 * difference, rtol=1e-4)
    error = float(capsys.readouterr().out.split(":")[1].split()[0])
    assert error == pytest.approx(difference.max() / 255, rel=0.06)


def test_likelihood_is_of_what_the_legend_says(encoder, test_set, monkeypatch, capsys):
    seen, measure = [], nice.log_likelihood

    def note(encoder, images, noise=None, seed=0):
        seen.append((images, noise, measure(encoder, images, noise, seed)))
        return seen[-1][2]

    monkeypatch.setattr(nice, "log_likelihood", note)
    x_test = test_set[0]
    assert sample.likelihood(encoder, x_test, seed=1).shape[2] == 3
    (plain, flipped, grain, drawn) = (seen[i][0] for i in range(4))
    assert np.shares_memory(plain, x_test) and np.shares_memory(flipped, x_test)  # no copies
    np.testing.assert_array_equal(flipped, x_test[:, ::-1, ::-1])
    assert grain.dtype == np.uint8 and grain.shape == x_test.shape
    assert grain.min() == 0 and grain.max() == 255
    assert grain.std() == pytest.approx(256 / np.sqrt(12), rel=0.01)
    # Samples must be as likely as codes of the prior say they are, and they need no noise.
    layer = encoder.get_layer("prior")
    codes = layer.sample(len(x_test), temperature=1.0, seed=1)
    expected = array(layer.log_prob(codes)) - np.log(sigma(encoder)).sum()
    np.testing.assert_allclose(seen[3][2], expected, rtol=1e-3)
    np.testing.assert_allclose(sample.encode(encoder, drawn), codes, atol=1e-2)
    assert [call[1] for call in seen[:3]] == [None] * 3  # the encoder's own
    assert seen[3][1].low == seen[3][1].high == 0
    printed = {line[:14].strip(): line[14:] for line in capsys.readouterr().out.splitlines()}
    means = {name: float(rest.split()[0]) for name, rest in printed.items()}
    for name, (*_, nats) in zip(means, seen, strict=True):
        assert means[name] == pytest.approx(nats.mean(), abs=1)
    assert means["test images"] > means["uniform noise"]  # it has learnt something


@pytest.mark.parametrize("unit", [1, 1000])
def test_the_histogram_fits_its_likelihoods(unit, monkeypatch, capsys):
    """Whatever they are, nearly all images are in bars of their own, and noise in the first."""
    rng, drawn = np.random.default_rng(0), {}
    x_test = rng.integers(0, 256, (200, 6, 4), dtype="uint8")
    nats = iter(unit * rng.normal(middle, 1, 200) for middle in (0, -5, -1000, 2))
    monkeypatch.setattr(nice, "log_likelihood", lambda *_, **__: next(nats))

    class Axes:
        def hist(self, values, edges, label, **style):
            drawn[label] = np.histogram(values, edges)[0]

        def __getattr__(self, name):
            return lambda *args, **options: None

    monkeypatch.setattr(pictures, "plot", lambda draw: draw(Axes()))
    sample.likelihood(untrained(), x_test)
    assert all(bars.sum() == 200 for bars in drawn.values())
    assert drawn["uniform noise"][0] == 200
    for name in ("test images", "upside down", "its samples"):
        assert drawn[name][1:].sum() > 180 and np.count_nonzero(drawn[name]) > 15


def test_seeds_may_be_large(encoder, test_set):
    noise = encoder.get_layer("noise")
    for seed in (2**32 - 1, 2**70):
        assert np.isfinite(nice.log_likelihood(encoder, test_set[0][:5], noise, seed)).all()


def test_extremes_are_sorted(encoder, test_set):
    x_test, _ = test_set
    sheet = sample.extremes(encoder, x_test, rows=2, columns=10)
    assert sheet.images.shape == (4, 10, 28, 28)
    assert sheet.row_labels == ["likeliest"] * 2 + ["least likely"] * 2
    order = np.argsort(-nice.log_likelihood(encoder, x_test, encoder.get_layer("noise")))
    np.testing.assert_array_equal(sheet.images[:2].reshape(20, 28, 28), x_test[order[:20]])
    np.testing.assert_array_equal(sheet.images[2:].reshape(20, 28, 28), x_test[order[-20:]])
    with pytest.raises(ValueError, match="needs 220 images, not 200"):
        sample.extremes(encoder, x_test, rows=11, columns=10)


def test_a_learned_prior_has_widths_of_its_own(test_set):
    """The scaling's are 1 everywhere: dimensions must go by the prior's."""
    encoder = untrained((28, 28), prior="mixture")
    x_test, width = test_set[0], encoder.get_layer("prior").deviation
    labels = sample.traverse(encoder, x_test, rows=1, dimensions=1).row_labels
    assert labels == [f"sigma {value:.3f}" for value in (width.max(), width.min())]
    assert width.max() > 1.01 * width.min()


def test_a_plane_needs_a_fine_floatx(tmp_path, refuse):
    before = keras.config.floatx()
    keras.config.set_floatx("float16")
    try:
        refuse(sample.main, ["plane", "--output", tmp_path / "a.png"], "floatx is float16")
    finally:
        keras.config.set_floatx(before)


def test_a_plane_keeps_its_area_until_the_scaling(drawn_axes, monkeypatch, capsys):
    built = []
    build = nice.build_encoder
    monkeypatch.setattr(nice, "build_encoder", lambda *args: built.append(build(*args)) or built[0])
    axes = sample.plane(couplings=3, epochs=12, seed=1).flat
    titles = ["density q(x)", "x", "coupling 1", "coupling 2", "coupling 3", "scaling: z"]
    assert [ax.get_title() for ax in axes] == titles
    density = axes[0].images[0].get_array()
    assert density.mean() == pytest.approx(1, abs=0.15)  # over the unit square, which holds it
    nats = float(capsys.readouterr().out.split()[0])
    assert np.sum(density * np.log(density)) / density.size == pytest.approx(nats, abs=0.15)
    areas = []
    for ax in list(axes)[1:]:
        lines = [line.get_xydata() for line in ax.lines]
        bottom, top, left, right = lines[0], lines[20], lines[21], lines[41]
        x, y = np.concatenate([bottom, right, top[::-1], left[::-1]]).T
        areas.append(abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1))) / 2)
    np.testing.assert_allclose(areas[:-1], 1, rtol=0.01)
    scale = np.exp(float(built[0].get_layer("scaling").log_determinant()))
    assert areas[-1] == pytest.approx(scale, rel=0.01) and scale > 2


@pytest.mark.parametrize("couplings", [1, 2])
def test_a_plane_of_few_couplings(couplings):
    assert sample.plane(couplings=couplings, epochs=1).shape[2] == 3


# --- In-painting -----------------------------------------------------------------------------


def test_masks_hide_what_they_say():
    masks = sample.masks((28, 28))
    share = {name: hidden.mean() for name, hidden in masks.items()}
    assert share.pop("random 75%") == pytest.approx(0.75, abs=0.05)
    assert set(share.values()) == {0.5} and len(share) == 5
    assert masks["top half"][:14].all() and masks["left half"][:, :14].all()
    assert masks["bottom half"][14:].all() and masks["right half"][:, 14:].all()
    neighbours = masks["every second"]
    assert (neighbours[1:] != neighbours[:-1]).all()
    assert (neighbours[:, 1:] != neighbours[:, :-1]).all()
    colour = sample.masks((6, 4, 3), seed=1)
    for hidden in colour.values():
        assert hidden.shape == (6, 4, 3)
        assert (hidden == hidden[..., :1]).all()  # all channels of a pixel, or none
    assert (colour["random 75%"] != sample.masks((6, 4, 3), seed=2)["random 75%"]).any()


@pytest.mark.parametrize("name", sample.masks((28, 28)))
def test_inpainting_leaves_the_observed_and_climbs(name, encoder, test_set):
    images, noise = test_set[0][:20], encoder.get_layer("noise")
    hidden = np.broadcast_to(sample.masks((28, 28))[name], images.shape)
    masked = np.where(hidden, np.float32(127.5), images)
    start, found = (sample.fill_in(encoder, images, hidden, steps) for steps in (0, 40))
    for filled in (start, found):
        assert filled.dtype == np.float32
        np.testing.assert_array_equal(filled[~hidden], images[~hidden])
        assert filled.min() >= 0 and filled.max() <= 255
    nats = [nice.log_likelihood(encoder, x, noise) for x in (found, start, masked)]
    assert (nats[0] > nats[1] + 5).all()
    assert (nats[0] > nats[2] + 5).all()


def test_inpainting_is_stable_whatever_the_curvature():
    """The best value of half of the pixels is 0.5, and log q is up to e^20 times as steep."""
    encoder = untrained((8, 8), output_gain=1e-6)
    encoder.get_layer("scaling").log_scale_over_speed.assign(np.linspace(-3, 7, 64))
    for number, value in ((1, 0.5), (2, 0.0)):
        kernel, bias = encoder.get_layer(f"coupling_{number}").m.layers[-1].weights
        kernel.assign(np.zeros(kernel.shape))
        bias.assign(np.full(bias.shape, value))
    hidden = (np.arange(64) % 2 == 0).reshape(1, 8, 8)
    found = sample.fill_in(encoder, np.zeros((1, 8, 8), "uint8"), hidden)
    np.testing.assert_allclose(found[hidden], 127.5, atol=3)


def test_each_step_of_inpainting_sees_noise_of_its_own(encoder, test_set, monkeypatch):
    noise, seeds = encoder.get_layer("noise"), []
    add = noise.add_to
    monkeypatch.setattr(noise, "add_to", lambda x, seed: seeds.append(seed) or add(x, seed))
    images = test_set[0][:1]
    sample.fill_in(encoder, images, np.ones(images.shape, bool), steps=4)
    assert seeds == [0, 1, 2, 3]


def test_inpaintings_picture(encoder, test_set, monkeypatch, capsys):
    measured_under, measure = [], nice.log_likelihood

    def note(encoder, images, noise=None, seed=0):
        measured_under.append(noise or encoder.get_layer("noise"))
        return measure(encoder, images, noise, seed)

    monkeypatch.setattr(nice, "log_likelihood", note)
    sheet = sample.inpaint(encoder, test_set[0], rows=2, count=4, steps=3, seed=1)
    assert sheet.images.shape == (2, 18, 28, 28)
    masks = sample.masks((28, 28), seed=1)
    assert sheet.column_labels == list(masks)
    first = sample.choose(test_set[0], 4, seed=1)
    for column, hidden in enumerate(masks.values()):
        original, masked, found = sheet.images[:, 3 * column : 3 * column + 3].swapaxes(0, 1)
        np.testing.assert_array_equal(original, first[:2])
        np.testing.assert_array_equal(masked[:, ~hidden], first[:2][:, ~hidden])
        assert (masked[:, hidden] == 127.5).all()
        np.testing.assert_array_equal(found[:, ~hidden], first[:2][:, ~hidden])
        assert found[:, hidden].std() > 10
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line[:14].strip() for line in lines] == list(masks)
    noise = encoder.get_layer("noise")
    assert len(measured_under) == 18 and set(measured_under) == {noise}
    expected = measure(encoder, first, noise, seed=1).mean()  # of all four
    for line in lines:
        assert float(line[14:24]) == pytest.approx(expected, abs=1)


def test_gradient_is_the_difference_quotient():
    encoder = untrained((2, 3))
    x = 255 * np.random.default_rng(0).random((2, 2, 3), dtype="float32")

    def f(x):
        return encoder.get_layer("prior").log_prob(encoder(x))

    slope = backends.gradient(f)(x)
    assert isinstance(slope, np.ndarray) and slope.shape == x.shape
    for position in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[position] += 0.5
        down[position] -= 0.5
        quotient = array(f(up) - f(down))[position[0]]
        assert slope[position] == pytest.approx(quotient, rel=0.02, abs=2e-5)


# --- The command line ------------------------------------------------------------------------


def parse(*argv):
    args = command_line.parse_picture([str(word) for word in argv], sample.PICTURES)
    return {name: value for name, value in vars(args).items() if value is not None}


def test_a_pictures_name_may_stand_anywhere():
    assert parse()["picture"] == "samples"
    assert parse("--seed", 3)["picture"] == "samples"
    for argv in (["--seed", 3, "anneal"], ["anneal", "--seed", 3], ["--seed=3", "anneal"]):
        args = parse(*argv)
        assert (args["picture"], args["seed"]) == ("anneal", 3)
    args = parse("--rows", 2, "stages", "--source", "prior")
    assert (args["picture"], args["rows"], args["source"]) == ("stages", 2, "prior")


def test_an_options_value_may_be_a_pictures_name():
    args = parse("--output", "samples")
    assert (args["picture"], args["output"]) == ("samples", Path("samples"))
    args = parse("--output", "anneal")
    assert (args["picture"], args["output"]) == ("samples", Path("anneal"))
    args = parse("--output", "stages", "--data", "codes", "anneal")
    assert (args["picture"], args["output"], args["data"]) == ("anneal", Path("stages"), "codes")
    assert parse("--output=codes", "spectrum")["picture"] == "spectrum"


def test_options_are_a_pictures_keywords(replace_picture, trained, digits, tmp_path):
    """Every picture gets its inputs and its own defaults, or what the command line gives."""
    model, output = ["--model", trained / "nice.keras"], ["--output", tmp_path / "a.png"]
    for name, function in sample.PICTURES.items():
        needs, defaults = command_line.parameters(function)
        calls = replace_picture(name)
        given = {option: 1 for option in defaults if option not in ("source", "temperature")}
        inputs = model if "encoder" in needs else []
        inputs = [*inputs, "--data", digits] if "x_test" in needs else inputs
        run(name, *inputs, *output)
        run(name, *inputs, *output, *[f"--{option}={value}" for option, value in given.items()])
        assert {option: calls[0][option] for option in defaults} == defaults
        assert {option: calls[1][option] for option in defaults} == defaults | given
        assert [key for key in calls[0] if key not in defaults] == needs
    options = ["--temperature", "0.25", "--source", "prior"]
    calls = replace_picture("samples")
    run(*options, *model, *output)
    assert (calls[0]["temperature"], calls[0]["source"]) == (0.25, "prior")


def test_options_of_other_pictures_are_refused(refuse):
    options = {"model", "data"}
    for function in sample.PICTURES.values():
        options |= set(command_line.parameters(function)[1])
    tried = 0
    for name, function in sample.PICTURES.items():
        needs, taken = command_line.parameters(function)
        taken = {*taken, "model"} if "encoder" in needs else taken
        taken = {*taken, "data"} if "x_test" in needs else taken
        for option in options - set(taken):
            refuse(sample.main, [name, f"--{option}", "1"], "unrecognized arguments", option)
            tried += 1
    assert tried > 50


@pytest.mark.parametrize(
    "arguments",
    [
        ["--temperature", "-1"],
        ["--temperature", "nan"],
        ["--temperature", "inf"],
        ["--rows", "0"],
        ["--columns", "x"],
        ["--columns", "1.5"],
        ["--seed", "-1"],
        ["--temp", "1"],
        ["--rows"],
        ["inpaint", "--steps", "0"],
    ],
)
def test_bad_options(arguments, refuse):
    refuse(sample.main, arguments, arguments[-2] if len(arguments) > 1 else arguments[0])


def test_bad_source(trained, tmp_path, refuse):
    output = ["--model", trained / "nice.keras", "--output", tmp_path / "a.png"]
    for source in ("posterior", "", "Prior", "noise"):
        refuse(sample.main, ["--source", source, *output], "--source", "fitted", "prior", source)
    assert not list(tmp_path.iterdir())


def test_help_names_every_picture_and_its_options(capsys):
    for argv, words in (
        (["--help"], sample.PICTURES),
        (["anneal", "--help"], ["--model", "--data", "--rows", "--source", "fitted"]),
        (["--help", "inpaint"], ["inpaint"]),
    ):
        with pytest.raises(SystemExit) as end:
            sample.main(argv)
        assert end.value.code == 0
        printed = capsys.readouterr().out
        assert all(word in printed for word in words)


@pytest.fixture
def loaded(monkeypatch):
    """What is loaded, by the names of the loaders."""
    names = []
    for module, name in ((nice, "load_encoder"), (data, "load_images"), (data, "load_test_images")):
        load = getattr(module, name)
        note = functools.partial(lambda name, load, *args: names.append(name) or load(*args))
        monkeypatch.setattr(module, name, functools.partial(note, name, load))
    return names


@pytest.mark.parametrize("name", sample.PICTURES)
def test_only_what_a_picture_needs_is_loaded(
    name, replace_picture, loaded, trained, digits, tmp_path
):
    calls = replace_picture(name)
    inputs = [] if name == "plane" else ["--model", trained / "nice.keras"]
    inputs += [] if name in ("samples", "spectrum", "plane") else ["--data", digits]
    run(name, *inputs, "--output", tmp_path / "a.png")
    expected = [] if name == "plane" else ["load_encoder"]
    if name == "anneal":
        expected.append("load_images")
        assert calls[0]["x_train"].shape == (1000, 28, 28)
    elif name not in ("samples", "spectrum", "plane"):
        expected.append("load_test_images")
    assert loaded == expected
    if "x_test" in calls[0]:
        assert calls[0]["x_test"].shape == (200, 28, 28)
    if "y_test" in calls[0]:
        assert calls[0]["y_test"].shape == (200,)


def test_pictures_go_beside_their_model(trained, digits, tmp_path, capsys):
    model = tmp_path / "a paper" / "nice.keras"
    model.parent.mkdir()
    shutil.copy(trained / "nice.keras", model)
    run("--model", model)
    run("spectrum", "--model", model)
    names = [path.name for path in tmp_path.glob("**/*") if path.is_file()]
    assert sorted(names) == ["nice.keras", "samples.png", "spectrum.png"]
    picture = imageio.imread(model.with_name("samples.png"))
    assert picture.shape == (2 * 15 * 28, 2 * 15 * 28) and picture.dtype == np.uint8
    assert str(model.with_name("samples.png")) in capsys.readouterr().out.splitlines()


def test_the_seed_decides(trained, tmp_path):
    first, again, other = (tmp_path / "new" / name for name in ("a.png", "b.png", "c.png"))
    for path, seed in ((first, 3), (again, 3), (other, 4)):
        run("--model", trained / "nice.keras", "--output", path, "--seed", seed, "--rows", 2)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    sheet = sample.samples(nice.load_encoder(trained / "nice.keras"), rows=2, seed=3)
    np.testing.assert_array_equal(imageio.imread(first), sheet.picture())


@pytest.mark.parametrize(
    ("name", "shape", "label", "above"),
    [
        ("samples", (2, 15), "", 0),
        ("interpolate", (4, 10), "circle", 0),
        ("traverse", (12, 9), "direction 1", 24),
        ("stages", (4, 4), "random code", 24),
        ("anneal", (2, 8), None, 24),
        ("inpaint", (2, 18), None, 24),
        ("reconstruct", (2, 3), None, 24),
        ("extremes", (4, 15), "least likely", 0),
    ],
)
def test_each_sheet_from_the_command_line(
    name, shape, label, above, trained, digits, tmp_path, capsys
):
    output = tmp_path / "a.png"
    options = ["--model", trained / "nice.keras", "--output", output, "--rows", 2]
    options += ["--data", digits] if name != "samples" else []
    options += ["--count", 2, "--steps", 3] if name == "inpaint" else []
    run(name, *options)
    image = imageio.imread(output)
    left = 4 if label is None else 12 + 8 * len(label) if label else 0
    side = 28 * (3 if name == "stages" else 2)
    assert image.shape[0] == above + side * shape[0]
    # a font library may round the width of a label otherwise
    assert abs(image.shape[1] - (left + side * shape[1])) <= 1
    assert image.dtype == np.uint8 and image.ndim == (3 if left else 2)
    assert image.max() > 200 and image.std() > 10
    printed = capsys.readouterr().out
    words = {"inpaint": "random 75%", "reconstruct": "largest error", "anneal": "deviation"}
    assert words.get(name, "") in printed and printed.splitlines()[-1] == str(output)


@pytest.mark.parametrize("name", ["codes", "likelihood"])
def test_each_plot_from_the_command_line(name, trained, digits, tmp_path):
    output = tmp_path / "a.png"
    run(name, "--model", trained / "nice.keras", "--output", output, "--data", digits)
    image = imageio.imread(output)
    assert image.shape[2] == 3 and image.shape[0] >= 300 and image.std() > 10


def test_pictures_of_colour_images(tmp_path):
    """Of a model that was saved without its fitted density."""
    encoder, x_test = untrained((6, 4, 3)), random_images(12, 6, 4, 3)
    inputs = {"encoder": encoder, "x_test": x_test, "x_train": x_test, "y_test": np.arange(12)}
    small = {"rows": 2, "columns": 3, "count": 2, "steps": 2, "dimensions": 2}
    for name, function in sample.PICTURES.items():
        needs, options = command_line.parameters(function)
        if "encoder" in needs:
            options = {option: small[option] for option in options if option in small}
            made = function(*[inputs[need] for need in needs], **options)
            if isinstance(made, Sheet):
                assert made.images.shape[2:] == (6, 4, 3), name
                made = made.picture()
            assert made.dtype == np.uint8 and made.ndim == 3 and made.shape[2] == 3, name


@pytest.mark.parametrize("name", sample.PICTURES)
def test_what_moves_can_be_an_animation(
    name, replace_picture, trained, digits, tmp_path, refuse, capsys
):
    images = np.stack([np.full((2, 8, 6), grey) for grey in (0, 80, 160, 240)], axis=1)
    calls = replace_picture(name, Sheet(images))
    output = tmp_path / "a.gif"
    command = [name, "--output", output]
    command += ["--model", trained / "nice.keras"] if name != "plane" else []
    command += [] if name in ("samples", "spectrum", "plane") else ["--data", digits]
    if name in ("interpolate", "traverse", "anneal", "stages"):
        run(*command)
        frames = imageio.imread(output, index=None)
        assert len(frames) == 6 and frames.shape[1:3] == (32, 12)
        greys = frames.mean(axis=(1, 2, 3))
        np.testing.assert_allclose(greys, [0, 80, 160, 240, 160, 80], atol=2)
    else:
        refuse(sample.main, command, "a.gif", "only interpolate, traverse, anneal, stages move")
        assert not calls and not list(tmp_path.iterdir())


def test_bad_pictures(trained, digits, tmp_path, refuse):
    model = ["--model", trained / "nice.keras", "--data", digits]
    refuse(sample.main, ["anneal", *model, "--output", tmp_path / "a.mp4"], "a.mp4", ".gif")
    refuse(sample.main, ["anneal", *model, "--output", tmp_path / "a"], "a: pictures are .png")
    refuse(sample.main, ["unravel", *model], "no picture 'unravel'", "interpolate")
    refuse(sample.main, ["anneal", "stages", *model], "unrecognized arguments: stages")
    refuse(sample.main, ["interpolate", *model, "--rows", "101"], "--rows 101", "200")
    refuse(sample.main, ["traverse", *model, "--rows", "201"], "needs 201", "200")
    refuse(sample.main, ["extremes", *model, "--rows", "7"], "210", "200")
    np.savez(tmp_path / "a.npz", x_train=random_images(9, 4, 4), x_test=random_images(9, 4, 4))
    other = ["--model", trained / "nice.keras", "--data", tmp_path / "a.npz"]
    for picture in ("traverse", "anneal"):
        output = ["--output", tmp_path / "a.png"]
        refuse(sample.main, [picture, *other, *output], "shape (4, 4)", "(28, 28)")
    missing = ["--model", trained / "nice.keras", "--data", "missing.npz"]
    refuse(sample.main, ["codes", *missing], "missing.npz", "no such file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz"]


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
    refuse(sample.main, ["--model", bad, "--output", output], "bad.keras: not a usable NICE")
    refuse(sample.main, ["--model", tmp_path, "--output", output], tmp_path)
    assert output.read_text() == "mine"


def test_a_picture_that_cannot_be_written(trained, tmp_path, refuse, monkeypatch):
    model = ["--model", trained / "nice.keras"]
    (tmp_path / "file").write_text("mine")
    refuse(sample.main, [*model, "--output", tmp_path / "file" / "a.png"], "file")
    output = tmp_path / "a.png"
    output.write_text("old")

    def fail(path, picture):
        path.write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(pictures, "write_png", fail)
    refuse(sample.main, [*model, "--output", output], "No space left")
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "file"]


def test_the_program_says_no_more_than_it_must(trained, tmp_path):
    """Nothing on stderr but an error; from any folder, and whatever the model is called."""
    model = tmp_path / "my model" / "nice.keras"
    model.parent.mkdir()
    shutil.copy(trained / "nice.keras", model)
    command = [sys.executable, sample.__file__, "--model", "my model/nice.keras"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    device, picture = done.stdout.splitlines()
    assert device.startswith(f"{keras.backend.backend()} on ")
    assert picture == str(Path("my model") / "samples.png")
    assert imageio.imread(model.with_name("samples.png")).shape == (840, 840)
    command[-1] = "\udcff.keras"  # no text, but a file's name it may be
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("sample.py: error: ") and done.stderr.count("\n") == 1
    assert "no such model" in done.stderr
