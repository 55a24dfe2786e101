"""`python sample.py`: the pictures, and the command line."""

from support import data, pictures

import nice
import sample

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
    sheet = sample.traverse_sheet(encoder, x_test, rows=2, columns=5)
    assert sheet.images.shape[:2] == (6, 5)
    assert sheet.row_names == ["axis 1", "axis 2", "axis 3"] * 2
    assert sheet.column_names == ["−3", "−1.5", "0", "1.5", "3"]
    assert sheet.row_blocks == [("", 3), ("", 3)]
    assert sheet.framed == (2,)
    chosen = sample.choose(x_test, 2, 0).repeat(3, axis=0)
    np.testing.assert_allclose(sheet.images[:, 2], chosen, atol=0.01)
    moved = abs(sheet.images[:, 4] - sheet.images[:, 2]).reshape(6, -1).sum(axis=1)
    assert np.all(moved > 1)


def test_stages_lead_from_images_to_codes_and_back(encoder, x_test):
    sheet = sample.stages_sheet(encoder, x_test, rows=2)
    assert sheet.images.shape == (4, 4, 28, 28)
    assert sheet.column_names == ["x", "after 1", "after 2", "code"]
    flat = sheet.images.reshape(4, 4, 784)
    x = 256 * (sheet.images[:, 0] - 128) / 128
    chosen = sample.choose(x_test, 2, 0)

    # Test images become codes; they have noise as in training.
    noise = x[:2] - chosen
    assert noise.min() >= -1e-3 and noise.max() <= 1.001 and noise.std() > 0.2
    z = encoder.encode(x[:2])
    np.testing.assert_allclose(flat[:2, 3], 128 + 40 * z, atol=0.1)
    # The first coupling leaves every second pixel where and as it is.
    np.testing.assert_allclose(flat[:, 1, 1::2], flat[:, 0, 1::2], atol=1e-3)

    # Random codes become images.
    z = encoder.sample_codes(2)
    np.testing.assert_allclose(flat[2:, 3], 128 + 40 * z, atol=0.1)
    drawn = np.clip(x[2:], 0, 255)
    np.testing.assert_allclose(drawn, encoder.sample(2), atol=1.001)


def test_stages_are_upright():
    """With couplings that shift nothing, an image is the same after each of them."""
    model = nice.build_encoder((4, 2, 3), couplings=3, hidden_layers=1, hidden_units=4)
    for weight in model.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    x = np.random.default_rng(0).random((5, 24), "float32")
    for h in sample.upright(model, sample.walk(model, x)):
        np.testing.assert_array_equal(h, x)


def test_own_steps_are_shown_as_they_are():
    model = nice.Flow((4, 2), [Permutation(), Permutation()])
    x = np.random.default_rng(0).random((5, 8), "float32")
    walked = sample.walk(model, x)
    for shown, h in zip(sample.upright(model, walked), walked, strict=True):
        np.testing.assert_array_equal(shown, h)


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
    assert sheet.column_names == ["original"] + ["seen", "filled in"] * 4
    assert sheet.column_blocks[1] == ("top half hidden", 2)
    chosen = sample.choose(x_test, 3, 0).astype("float32")
    np.testing.assert_array_equal(sheet.images[:, 0], chosen[:2])
    assert np.all(sheet.images[:, 1, :14] == 127.5)  # the top half is hidden
    np.testing.assert_array_equal(sheet.images[:, 1, 14:], chosen[:2, 14:])
    for row, value in enumerate(encoder.log_likelihood(chosen)[:2]):
        assert sheet.notes[row][0] == f"{value:.0f} nats".replace("-", "−")


def test_too_few_images_are_refused(encoder, x_test):
    words = "this picture needs 402 test images, the data has 200"
    with pytest.raises(ValueError, match=words):
        sample.interpolate_sheet(encoder, x_test, rows=201)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_a_grid_has_the_images_in_reading_order(channels):
    levels = np.array([-10, 40, 90, 140, 190, np.nan], "float32")
    images = np.empty((6, 2, 3, *channels), "float32")
    images[:] = levels.reshape(6, 1, 1, *[1] * len(channels))
    picture = pictures.grid(images, 2, 3, zoom=2)
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
        row_blocks=[("above", 2), ("below", 1)],
        column_blocks=[("both", 2)],
        notes=[["n1", "n2"], ["n3", "n4"], ["n5", "n6"]],
        framed=(1,),
    )
    (axes,) = pictures.draw(sheet).axes
    texts = {text.get_text() for text in axes.texts}
    names = {"r1", "r2", "r3", "c1", "c2", "above", "below", "both"}
    assert texts == names | {"n1", "n2", "n3", "n4", "n5", "n6"}
    assert len(axes.patches) == 3  # frames

    pixels = np.array(axes.images[0].get_array())
    if pixels.ndim == 3:
        pixels = pixels[..., 0]
    places = []
    for level in levels.flat:
        y, x = np.nonzero(pixels == level)
        assert len(y) == (np.ptp(y) + 1) * (np.ptp(x) + 1)  # one rectangle
        places.append((y.min(), x.min()))
    tops = [y for y, _ in places[::2]]
    assert places[1::2] == [(y, places[1][1]) for y in tops]
    assert places[1][1] > places[0][1]
    assert tops[2] - tops[1] > tops[1] - tops[0] > 0  # blocks of rows stand apart


# --- The command line ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        (["--rows", "3", "--columns", "5"], (168, 280)),
        (["--label", "7", "--rows", "2", "--columns", "2"], (112, 112)),
        (["--source", "prior", "--rows", "2", "--columns", "2"], (112, 112)),
        (["labels", "--columns", "4"], None),
        (["interpolate", "--rows", "2", "--columns", "3"], None),
        (["traverse", "--rows", "1", "--columns", "3"], None),
        (["stages", "--rows", "1"], None),
        (["inpaint", "--rows", "1", "--count", "2", "--steps", "3"], None),
    ],
)
def test_every_picture(arguments, shape, trained, tmp_path, capsys):
    output = tmp_path / "pictures" / "made.PNG"
    options = ["--model", trained / "nice.keras", "--output", output, "--seed", 1]
    assert sample.main([*arguments, *options]) == 0
    picture = imageio.imread(output)
    assert picture.std() > 10
    if shape is not None:
        assert picture.shape == shape
    assert capsys.readouterr().out.splitlines()[-1] == str(output)


def test_it_says_what_it_draws_from(trained, tmp_path, capsys):
    """And how to get the other."""
    output = tmp_path / "made.png"
    options = ["--model", trained / "nice.keras", "--output", output, "--rows", 1]
    sample.main(options)
    out = capsys.readouterr().out
    assert "drawing from the styles" in out and "--source prior" in out
    sample.main([*options, "--source", "prior"])
    out = capsys.readouterr().out
    assert "drawing from the prior" in out and "--source fitted" in out


def test_an_unfinished_model_draws_from_its_prior(tmp_path, capsys, refuse):
    model = nice.build_encoder((4, 2), hidden_layers=1, hidden_units=4)
    model.save(tmp_path / "nice.keras")
    options = ["--model", tmp_path / "nice.keras"]
    assert sample.main(options) == 0
    assert "drawing from the prior" in capsys.readouterr().out
    refuse(sample.main, [*options, "--label", 1], "no styles are fitted")
    refuse(sample.main, ["labels", *options], "no styles are fitted")


def test_pictures_go_beside_their_model_and_move(digits, tmp_path):
    assert train(digits, tmp_path, epochs=1) == 0
    assert sample.main(["--model", tmp_path / "nice.keras", "--rows", 2]) == 0
    assert imageio.imread(tmp_path / "samples.png").shape[:2] == (2 * 56, 15 * 56)
    moving = tmp_path / "stages.gif"
    options = ["--model", tmp_path / "nice.keras", "--output", moving]
    assert sample.main(["stages", *options, "--rows", 2]) == 0
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
        (["--source", "test"], "invalid choice: 'test'"),
        (["--output", "x.jpg"], "x.jpg: pictures are .png"),
        (["--output", "x.gif"], "x.gif: pictures are .png; interpolate, traverse"),
        (["interpolate", "--data", "gone.npz"], "gone.npz: no such file"),
        (["interpolate", "--rows", "300"], "needs 600 test images"),
    ],
)
def test_bad_options(arguments, words, trained, refuse):
    refuse(sample.main, [*arguments, "--model", trained / "nice.keras"], words)


def test_a_model_behind_a_link(trained, tmp_path):
    """Its settings, and so its data, are beside the file that the link leads to."""
    link = tmp_path / "link.keras"
    link.symlink_to(trained / "nice.keras")
    options = ["--model", link, "--rows", 1, "--columns", 3]
    assert sample.main(["interpolate", *options]) == 0
    assert (tmp_path / "interpolate.png").exists()


def test_colour_images_without_labels(tmp_path, refuse):
    shape = (90, 4, 6, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")
    np.savez(tmp_path / "colour.npz", x_train=images, x_test=images)
    assert train(tmp_path / "colour.npz", tmp_path / "out", epochs=1) == 0
    model = tmp_path / "out" / "nice.keras"
    for picture in ("samples", "interpolate", "inpaint"):
        options = ["--rows", 2]
        if picture == "inpaint":
            options += ["--steps", 2]
        assert sample.main([picture, "--model", model, *options]) == 0
        assert imageio.imread(tmp_path / "out" / f"{picture}.png").shape[2] >= 3
    refuse(sample.main, ["labels", "--model", model], "trained without labels")
    refuse(sample.main, ["--label", 1, "--model", model], "trained without labels")
