"""`python sample.py`: arrays in and out, the pictures, and the command line."""

import imageio.v3 as imageio
import numpy as np
import pytest
from conftest import train

import nice
import sample
from support import data, pictures


@pytest.fixture(scope="module")
def x_test(digits):
    return data.load(digits)[1][0]


def test_decode_undoes_encode(encoder, x_test):
    z = sample.encode(encoder, x_test)
    assert z.shape == (200, 784) and z.dtype == "float32"
    decoded = sample.decode(encoder, z)
    assert decoded.dtype == "float32"
    np.testing.assert_allclose(decoded, x_test, atol=0.01)


def test_drawn_images_are_decoded_codes_clipped(encoder):
    z = encoder.get_layer("prior").sample(20, 0.8, seed=3)
    decoded = sample.decode(encoder, z)
    assert decoded.min() < 0  # else nothing here is clipped
    drawn = sample.draw(encoder, 20, seed=3, source="prior")
    assert drawn.dtype == "uint8" and drawn.shape == (20, 28, 28)
    np.testing.assert_array_equal(drawn, np.clip(decoded, 0, 255).astype("uint8"))


def test_the_default_source_temperature_and_seed(encoder):
    drawn = sample.draw(encoder, 8)
    z = encoder.get_layer("sampler").sample(8, 0.8, 0)
    np.testing.assert_array_equal(drawn, np.clip(sample.decode(encoder, z), 0, 255) // 1)
    for other in ({"temperature": 1.0}, {"seed": 1}, {"source": "prior"}, {"label": 7}):
        assert not np.array_equal(sample.draw(encoder, 8, **other), drawn)


def test_an_unfinished_model_draws_from_its_prior_and_says_so(capsys):
    encoder = nice.build_encoder((4, 2), hidden_layers=1, hidden_units=4)
    drawn = sample.draw(encoder, 5)
    assert "drawing from the prior" in capsys.readouterr().out
    np.testing.assert_array_equal(drawn, sample.draw(encoder, 5, source="prior"))
    for f in (lambda: sample.draw(encoder, 5, label=1), lambda: sample.labels(encoder)):
        with pytest.raises(ValueError, match="no density is fitted to this model's codes yet"):
            f()


def test_interpolation_starts_and_ends_at_the_images(encoder, x_test):
    images, _, _ = sample.interpolate(encoder, x_test, rows=3, columns=5)
    chosen = x_test[sample.choose(x_test, 6, 0)]
    np.testing.assert_allclose(images[:, 0], chosen[:3], atol=0.01)
    np.testing.assert_allclose(images[:, -1], chosen[3:], atol=0.01)
    middle = sample.encode(encoder, images[:, 2])
    ends = sample.encode(encoder, chosen)
    np.testing.assert_allclose(middle, (ends[:3] + ends[3:]) / 2, atol=1e-3)


def test_traversal_has_the_image_in_the_middle(encoder, x_test):
    images, rows, columns = sample.traverse(encoder, x_test, rows=2, columns=5)
    assert images.shape[:2] == (6, 5) and rows == ["axis 1", "axis 2", "axis 3"] * 2
    assert columns == ["-3.0", "-1.5", "+0.0", "+1.5", "+3.0"]
    chosen = x_test[sample.choose(x_test, 2, 0)]
    np.testing.assert_allclose(images[:, 2], chosen.repeat(3, axis=0), atol=0.01)
    moved = abs(images[:, 4] - images[:, 2]).reshape(6, -1).sum(axis=1)
    assert np.all(moved > 1)


def test_stages_lead_from_codes_to_images(encoder, x_test):
    images, rows, columns = sample.stages(encoder, x_test, rows=2)
    assert images.shape == (4, 4, 28, 28)
    assert columns == ["code", "h", "coupling 2", "coupling 1"]
    chosen = x_test[sample.choose(x_test, 2, 0)]
    np.testing.assert_allclose(images[2:, -1], chosen, atol=0.01)
    z = sample.encode(encoder, chosen).reshape(2, 28, 28)
    np.testing.assert_allclose(images[2:, 0], 128 + 40 * z, atol=1e-2)
    drawn = np.clip(images[:2, -1], 0, 255)
    np.testing.assert_allclose(drawn, sample.draw(encoder, 2), atol=1)


def test_in_painting_keeps_what_is_seen_and_climbs(encoder, x_test):
    images = x_test[:4].astype("float32")
    hidden = np.zeros((28, 28), bool)
    hidden[:14] = True
    before = [weight.copy() for weight in map(np.array, encoder.get_weights())]
    filled = sample.fill_in(encoder, images, hidden, steps=60)
    np.testing.assert_array_equal(filled[:, 14:], images[:, 14:])
    assert filled.min() >= 0 and filled.max() <= 255
    rough = np.where(hidden, 255 * np.random.default_rng(0).random(images.shape), images)
    assert nice.log_likelihood(encoder, filled).mean() > (
        nice.log_likelihood(encoder, rough).mean() + 10
    )
    for weight, old in zip(encoder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert encoder.trainable and encoder.trainable_weights


def test_too_few_images_are_refused(encoder, x_test):
    with pytest.raises(ValueError, match="this picture needs 402 test images, the data has 200"):
        sample.interpolate(encoder, x_test, rows=201)


# --- The command line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        (["--rows", "3", "--columns", "5"], (84, 140)),
        (["--label", "7", "--rows", "2", "--columns", "2", "--source", "fitted"], (56, 56)),
        (["labels", "--columns", "4"], (560, None)),
        (["interpolate", "--rows", "2", "--columns", "3"], (112, 168)),
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
    if shape:
        zoom = 1 if shape[1] is None else 2
        assert picture.shape[0] == shape[0] * (2 if zoom == 2 and shape[0] in (84, 56) else 1)
    assert capsys.readouterr().out.splitlines()[-1] == str(output)


def test_pictures_go_beside_their_model_and_move(digits, trained, tmp_path):
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
        (["--label", "11"], "no label 11: the model has [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"),
        (["--label", "1", "--source", "prior"], "the prior knows no labels"),
        (["interpolate", "--temperature", "1"], "the picture interpolate has no --temperature"),
        (["--count", "3"], "the picture samples has no --count"),
        (["--data", "x.npz"], "the picture samples has no --data"),
        (["glow"], "invalid choice: 'glow'"),
        (["--rows", "0"], "must be at least 1, got 0"),
        (["--source", "test"], "invalid choice: 'test'"),
        (["--output", "x.jpg"], "x.jpg: pictures are .png"),
        (["--output", "x.gif"], "x.gif: pictures are .png; interpolate, traverse, stages"),
        (["interpolate", "--data", "gone.npz"], "gone.npz: no such file"),
        (["interpolate", "--rows", "300"], "needs 600 test images"),
    ],
)
def test_bad_options(arguments, words, trained, refuse):
    refuse(sample.main, [*arguments, "--model", trained / "nice.keras"], words)


def test_colour_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (90, 4, 6, 3), dtype="uint8")
    np.savez(tmp_path / "colour.npz", x_train=images, x_test=images)
    assert train(tmp_path / "colour.npz", tmp_path / "out", epochs=1) == 0
    model = tmp_path / "out" / "nice.keras"
    for picture in ("samples", "interpolate", "inpaint"):
        options = ["--rows", 2] + (["--steps", 2] if picture == "inpaint" else [])
        assert sample.main([picture, "--model", model, *options]) == 0
        assert imageio.imread(tmp_path / "out" / f"{picture}.png").shape[2] >= 3


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_a_grid_has_the_images_in_reading_order(channels):
    images = np.arange(6, dtype="float32").reshape(6, 1, 1, *[1] * len(channels)) * 50 - 10
    images = np.broadcast_to(images, (6, 2, 3, *channels)).copy()
    images[5] = np.nan
    picture = pictures.grid(images, 2, 3, zoom=2)
    assert picture.dtype == "uint8" and picture.shape == (8, 18, *[3] * (channels == (3,)))
    tiles = picture.reshape(2, 4, 3, 6, -1)[:, 0, :, 0, 0]
    np.testing.assert_array_equal(tiles, [[0, 40, 90], [140, 190, 0]])
