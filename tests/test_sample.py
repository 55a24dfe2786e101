"""`python sample.py`: the pictures, and the command line."""

from support import data, mixture, pictures
from support.errors import UserError

import nice
import sample

import re

import imageio.v3 as imageio
import numpy as np
import pytest
from conftest import train
from own_steps import Permutation


@pytest.fixture(scope="module")
def x_test(digits):
    _, (x_test, _) = data.load(digits)
    return x_test


# --- Pictures ------------------------------------------------------------------------


def shown(axes):
    """The pixels of the one image on some axes."""
    (image,) = axes.images
    pixels = np.array(image.get_array())
    return pixels if pixels.ndim == 2 else pixels[..., 0]


def test_draws_are_those_of_the_prior_and_of_the_mixture(encoder, monkeypatch):
    """Two titled grids, the prior's first; one if no mixture is fitted."""
    options = {"rows": 2, "columns": 3, "temperature": 0.5, "seed": 4}
    figure = sample.samples_picture(encoder, **options)
    assert len(figure.axes) == 2
    for axes, source in zip(figure.axes, ("prior", "mixture"), strict=True):
        assert axes.get_title() == f"codes from the {source}, T = 0.5"
        images = encoder.sample(6, 0.5, 4, source=source)
        drawn = pictures.grid(pictures.in_rows(images, 3))
        np.testing.assert_array_equal(shown(axes), drawn)
    monkeypatch.setattr(encoder, "mixture", None)
    (axes,) = sample.samples_picture(encoder, **options).axes
    assert axes.get_title() == "codes from the prior, T = 0.5"


def test_interpolation_starts_and_ends_at_the_images(encoder, x_test):
    sheet = sample.interpolate_sheet(encoder, x_test, rows=3, columns=5)
    assert sheet.column_names == ["0", "0.25", "0.5", "0.75", "1"]
    assert sheet.framed == (0, 4)
    images = sheet.images
    chosen = sample.choose(x_test, 6, 0)
    np.testing.assert_allclose(images[:, 0], chosen[:3], atol=0.01)
    np.testing.assert_allclose(images[:, -1], chosen[3:], atol=0.01)
    middle = encoder.encode(images[:, 2])
    ends = encoder.encode(chosen)
    np.testing.assert_allclose(middle, (ends[:3] + ends[3:]) / 2, atol=1e-3)


def test_traversal_has_the_image_in_the_middle(encoder, x_test):
    """A row for each of the first axes of its label; the ends are moved by four."""
    sheet = sample.traverse_sheet(encoder, x_test, rows=3, columns=5)
    assert sheet.images.shape == (3, 5, 28, 28)
    assert sheet.row_names == ["axis 1", "axis 2", "axis 3"]
    assert sheet.column_names == ["−4", "−2", "0", "2", "4"]
    assert sheet.framed == (2,)
    (image,) = sample.choose(x_test, 1, 0)
    for row in sheet.images:
        np.testing.assert_allclose(row[2], image, atol=0.01)
    (z,) = encoder.encode(image[None])
    (nearest,) = encoder.mixture.nearest(z[None], encoder.sigma)
    axes = encoder.mixture.axes_of(nearest)[:3]
    moved = encoder.decode(z + 4 * axes)
    np.testing.assert_allclose(sheet.images[:, 4], moved, atol=0.01)
    even = sample.traverse_sheet(encoder, x_test, rows=1, columns=4)
    assert even.framed == ()


def test_stages_lead_from_images_to_codes_and_back(encoder, x_test):
    """Each column is |h|, and white is its largest size, but for one in two hundred."""
    sheet = sample.stages_sheet(encoder, x_test, rows=2)
    assert sheet.images.shape == (4, 4, 28, 28)
    assert sheet.column_names == ["x", "after 1", "after 2", "code"]
    flat = sheet.images.reshape(4, 4, 784)
    assert flat.min() >= 0
    whites = (flat > 255).mean(axis=(0, 2))
    np.testing.assert_allclose(whites, 0.005, atol=0.001)

    # Test images become codes; they have noise as in training.
    chosen = sample.choose(x_test, 2, 0)
    rng = np.random.default_rng(0)
    noisy = nice.add_noise(chosen, encoder.noise, rng).reshape(2, 784)
    codes = abs(encoder.encode(noisy.reshape(2, 28, 28)))
    for column, sizes in ((0, noisy), (3, codes)):
        scale = flat[:2, column].max() / sizes.max()
        np.testing.assert_allclose(flat[:2, column], scale * sizes, atol=0.05)
    # The first coupling leaves every second pixel where and as it is.
    kept = flat[:2, 1, 1::2]
    before = flat[:2, 0, 1::2]
    np.testing.assert_allclose(kept, before * kept.max() / before.max(), atol=0.01)

    # Random codes become images; without another word they are the prior's.
    mixtures = sample.stages_sheet(encoder, x_test, rows=2, source="mixture").images
    for source, images in (("prior", sheet.images), ("mixture", mixtures)):
        z = encoder.sample_codes(2, pictures.TEMPERATURE, source=source)
        for column, values in ((3, z), (0, encoder.decode(z).reshape(2, 784))):
            found = images[2:, column].reshape(2, 784)
            sizes = abs(values)
            scale = found.max() / sizes.max()
            np.testing.assert_allclose(found, scale * sizes, atol=0.05)


def test_stages_are_upright():
    """With couplings that shift nothing, an image is the same after each of them."""
    model = nice.build_encoder((4, 2, 3), couplings=3, hidden_layers=1, hidden_units=4)
    for weight in model.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    x = np.random.default_rng(0).random((5, 24), "float32")
    encoded = sample.encode_steps(model, x)
    decoded = sample.decode_steps(model, encoded[-1])[::-1]
    for walked in (encoded, decoded):
        for h in sample.upright(model, walked):
            np.testing.assert_array_equal(h, x)


def test_own_steps_are_shown_as_they_are():
    model = nice.Flow((4, 2), [Permutation(), Permutation()])
    x = np.random.default_rng(0).random((5, 8), "float32")
    walked = sample.encode_steps(model, x)
    for upright, h in zip(sample.upright(model, walked), walked, strict=True):
        np.testing.assert_array_equal(upright, h)


def test_in_painting_keeps_what_is_seen_and_climbs(encoder, x_test):
    images = x_test[:4].astype("float32")
    hidden = np.zeros((28, 28), bool)
    hidden[:14] = True
    before = [np.array(weight) for weight in encoder.get_weights()]
    filled = sample.fill_in(encoder, images, hidden, steps=60)
    np.testing.assert_array_equal(filled[:, 14:], images[:, 14:])
    assert filled.min() >= 0 and filled.max() <= 255
    noise = 255 * np.random.default_rng(0).random(images.shape)
    rough = np.where(hidden, noise, images)
    nats = encoder.log_likelihood(filled).mean()
    assert nats > encoder.log_likelihood(rough).mean() + 10
    for weight, old in zip(encoder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert encoder.trainable and encoder.trainable_weights


def test_in_painting_shows_what_is_seen_and_its_nats(encoder, x_test):
    sheet = sample.inpaint_sheet(encoder, x_test, rows=2, count=3, steps=2)
    assert sheet.column_names[:3] == ["original", "top half\nhidden", "filled in"]
    assert len(sheet.column_names) == 9
    chosen = sample.choose(x_test, 3, 0).astype("float32")
    np.testing.assert_array_equal(sheet.images[:, 0], chosen[:2])
    assert np.all(sheet.images[:, 1, :14] == 127.5)  # the top half is hidden
    np.testing.assert_array_equal(sheet.images[:, 1, 14:], chosen[:2, 14:])
    for row, value in enumerate(encoder.log_likelihood(chosen)[:2]):
        assert sheet.notes[row][0] == f"{value:.0f} nats".replace("-", "−")
        assert sheet.notes[row][1] == "" and sheet.notes[row][2].endswith("nats")


def test_twenty_labels_are_shown_unless_more_are_asked_for(capsys):
    model = nice.build_encoder((4, 2), hidden_layers=1, hidden_units=4)
    z = np.random.default_rng(0).normal(size=(250, 8)).astype("float32")
    model.mixture = mixture.fit(z, np.arange(250) % 25, model.sigma)
    sheet = sample.labels_sheet(model, columns=2)
    assert sheet.images.shape == (20, 2, 4, 2)
    assert sheet.row_names == [str(label) for label in range(20)]
    line = "the first 20 of 25 labels; --rows shows more\n"
    assert capsys.readouterr().out == line
    assert len(sample.labels_sheet(model, rows=30, columns=2).images) == 25
    assert capsys.readouterr().out == ""


def test_too_few_images_are_refused(encoder, x_test):
    words = "this picture needs 402 test images, the data has 200"
    with pytest.raises(UserError, match=words):
        sample.interpolate_sheet(encoder, x_test, rows=201)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_a_grid_has_the_images_in_reading_order(channels):
    levels = np.array([[-10, 40, 90], [140, 190, np.nan]], "float32")
    images = np.empty((2, 3, 2, 3, *channels), "float32")
    images[:] = levels.reshape(2, 3, 1, 1, *[1] * len(channels))
    picture = pictures.grid(images, zoom=2)
    colours = channels if channels == (3,) else ()
    assert picture.dtype == "uint8" and picture.shape == (8, 18, *colours)
    tiles = picture.reshape(2, 4, 3, 6, -1)[:, 0, :, 0, 0]
    np.testing.assert_array_equal(tiles, [[0, 40, 90], [140, 190, 0]])


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_a_sheet_has_its_images_and_texts(channels):
    levels = np.array([[10, 20], [30, 40], [50, 60]])
    images = np.empty((3, 2, 4, 5, *channels))
    images[:] = levels.reshape(3, 2, 1, 1, *[1] * len(channels))
    sheet = pictures.Sheet(
        images,
        row_names=["r1", "r2", "r3"],
        column_names=["c1", "c2"],
        headings={0: "above", 2: "below"},
        notes=[["n1", "n2"], ["n3", "n4"], ["n5", "n6"]],
        framed=(1,),
    )
    figure = pictures.draw(sheet)
    assert [axes.get_ylabel() for axes in figure.axes] == ["r1", "r2", "r3"]
    assert [axes.get_title() for axes in figure.axes] == ["above", "", "below"]
    for row, axes in enumerate(figure.axes):
        assert np.all(shown(axes)[:, :5] == levels[row, 0])
        assert np.all(shown(axes)[:, 5:] == levels[row, 1])
        notes = [label.get_text() for label in axes.get_xticklabels()]
        assert notes == sheet.notes[row]
        (frame,) = axes.patches
        assert frame.get_bbox().bounds == (4.5, -0.5, 5, 4)
    (names,) = figure.axes[0].child_axes
    assert [label.get_text() for label in names.get_xticklabels()] == ["c1", "c2"]
    moving = pictures.animate(sheet)
    assert [frame.flat[0] for frame in moving] == [10, 20]
    assert pictures.figure_pixels(figure).std() > 10


# --- The command line ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "draw"),
    [
        (["--label", "7"], {"label": 7}),
        (["--source", "prior"], {"source": "prior"}),
        (["--source", "mixture", "--seed", "0"], {"source": "mixture", "seed": 0}),
        (
            ["--label", "3", "--temperature", "0.3"],
            {"label": 3, "temperature": 0.3},
        ),
        (
            ["--source", "prior", "--temperature", "1.5"],
            {"source": "prior", "temperature": 1.5},
        ),
    ],
)
def test_options_decide_what_is_drawn(arguments, draw, trained, encoder, tmp_path):
    """A plain grid, pixel for pixel what `Flow.sample` draws with the same options."""
    output = tmp_path / "made.png"
    options = ["--model", trained / "nice.keras", "--output", output]
    options += ["--rows", 2, "--columns", 3]
    if "seed" not in draw:
        options += ["--seed", 1]
    assert sample.main([*options, *arguments]) == 0
    images = encoder.sample(6, **{"temperature": 0.8, "seed": 1, **draw})
    drawn = pictures.grid(pictures.in_rows(images, 3), zoom=2)
    np.testing.assert_array_equal(imageio.imread(output), drawn)


@pytest.mark.parametrize(
    "arguments",
    [
        ["samples", "--rows", "3", "--columns", "5"],
        ["labels", "--columns", "4"],
        ["interpolate", "--rows", "2", "--columns", "3"],
        ["traverse", "--rows", "1", "--columns", "3"],
        ["stages", "--rows", "1"],
        ["inpaint", "--rows", "1", "--count", "2", "--steps", "3"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_picture(arguments, trained, tmp_path, capsys):
    output = tmp_path / "pictures" / "made.PNG"
    options = ["--model", trained / "nice.keras", "--output", output, "--seed", 1]
    assert sample.main([*arguments, *options]) == 0
    assert imageio.imread(output).std() > 10
    assert capsys.readouterr().out.splitlines()[-1] == str(output)


def test_an_unfinished_model_draws_from_its_prior(tmp_path, refuse):
    model = nice.build_encoder((4, 2), hidden_layers=1, hidden_units=4)
    model.save(tmp_path / "nice.keras")
    options = ["--model", tmp_path / "nice.keras"]
    assert sample.main(options) == 0
    assert (tmp_path / "samples.png").exists()
    words = "no mixture is fitted to this model's codes"
    refuse(sample.main, [*options, "--label", 1], words)
    refuse(sample.main, [*options, "--source", "mixture"], words)
    refuse(sample.main, ["labels", *options], words)


def test_pictures_go_beside_the_name_of_their_model_and_move(trained, tmp_path):
    """The settings, and so the data, are beside the file that a link leads to."""
    link = tmp_path / "link.keras"
    link.symlink_to(trained / "nice.keras")
    options = ["--model", link, "--rows", 1]
    assert sample.main(["interpolate", *options, "--columns", 3]) == 0
    assert (tmp_path / "interpolate.png").exists()
    moving = tmp_path / "stages.gif"
    assert sample.main(["stages", *options, "--output", moving]) == 0
    assert len(imageio.imread(moving, index=None)) == 2 * 4 - 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--label", "11"], "no label 11: the model has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        (["--label", "1", "--source", "prior"], "the prior knows no labels"),
        (["interpolate", "--temperature", "1"], "interpolate has no --temperature"),
        (["--count", "3"], "the picture samples has no --count"),
        (["--data", "x.npz"], "the picture samples has no --data"),
        (["glow"], "invalid choice: 'glow'"),
        (["--rows", "0"], "must be at least 1, got 0"),
        (["--seed", "4294967296"], "must be at most 4294967295"),
        (["--source", "test"], "invalid choice: 'test'"),
        (["--output", "x.jpg"], "x.jpg: pictures are .png"),
        (["--output", "x.gif"], "x.gif: pictures are .png; interpolate, traverse"),
        (["interpolate", "--data", "gone.npz"], "gone.npz: no such file"),
        (["interpolate", "--rows", "300"], "needs 600 test images"),
    ],
)
def test_bad_options(arguments, words, trained, refuse):
    refuse(sample.main, [*arguments, "--model", trained / "nice.keras"], words)


def test_every_option_of_a_picture_is_one_of_the_command_line():
    """And its function takes it: the names stand at both places."""
    for name, picture in sample.PICTURES.items():
        taken = picture.make.__code__.co_varnames[: picture.make.__code__.co_argcount]
        assert set(picture.options) <= set(taken), name
        for option in picture.options:
            value = {"source": "prior"}.get(option, "1")
            _, options = sample.parse([name, f"--{option}", value])
            assert list(options) == [option]


def test_colour_images_without_labels(tmp_path, refuse, capsys):
    shape = (90, 4, 6, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")
    np.savez(tmp_path / "colour.npz", x_train=images, x_test=images)
    assert train(tmp_path / "colour.npz", tmp_path / "out", epochs=1) == 0
    assert re.search(
        r"encoding \d+ training .* without labels", capsys.readouterr().out
    )
    model = tmp_path / "out" / "nice.keras"
    for picture in ("samples", "interpolate", "inpaint"):
        options = ["--rows", 2]
        if picture == "inpaint":
            options += ["--steps", 2]
        assert sample.main([picture, "--model", model, *options]) == 0
        assert imageio.imread(tmp_path / "out" / f"{picture}.png").shape[2] >= 3
    refuse(sample.main, ["labels", "--model", model], "trained without labels")
    refuse(sample.main, ["--label", 1, "--model", model], "trained without labels")
