"""Drawing from a model file."""

import imageio.v3 as imageio
import keras
import numpy as np
import pytest

import nice
import sample


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
