"""Damaged files and strange command lines: refused in one line, or read as what they were.

NICE_FUZZ sets how many of each are tried.
"""

import os

import keras
import numpy as np
import pytest

import nice
import sample

COUNT = int(os.environ.get("NICE_FUZZ", 25))


def damaged(content, rng):
    """Cut the bytes off somewhere, or flip one to eight of their bits."""
    if rng.random() < 0.3:
        return content[: rng.integers(len(content))]
    content = bytearray(content)
    for position in rng.integers(len(content), size=rng.integers(1, 9)):
        content[position] ^= 1 << rng.integers(8)
    return bytes(content)


def fuzz(path, read, tmp_path):
    """Damage the file COUNT times; return how often it was refused and how often read whole.

    Half of the damage goes to the last 2,000 bytes, where a zip file's directory is.
    """
    rng = np.random.default_rng(0)
    content, expected = path.read_bytes(), read(path)
    broken = tmp_path / f"broken{path.suffix}"
    broken.write_bytes(content)
    read(broken)  # while it is whole
    refused = 0
    for trial in range(COUNT):
        cut = len(content) - 2000 if trial % 2 else 0
        broken.write_bytes(content[:cut] + damaged(content[cut:], rng))
        try:
            found = read(broken)
        except ValueError as error:
            assert nice.first_line(error).startswith(str(broken))
            refused += 1
        else:
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)
    return refused, COUNT - refused


def test_damaged_models(trained, tmp_path):
    def read(path):
        encoder = nice.load_encoder(path)
        return [keras.ops.convert_to_numpy(weight) for weight in encoder.weights]

    refused, whole = fuzz(trained / "nice.keras", read, tmp_path)
    print(f"models: {refused} refused, {whole} read whole")
    assert refused > COUNT / 2


def test_damaged_data(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(20, 8, 8), dtype="uint8")
    np.savez_compressed(tmp_path / "a.npz", x_train=images, x_test=images, y_test=np.arange(20))
    refused, whole = fuzz(tmp_path / "a.npz", nice.load_images, tmp_path)
    print(f"data: {refused} refused, {whole} read whole")
    assert refused > COUNT / 2


@pytest.mark.parametrize("program", ["nice", "sample"])
def test_strange_command_lines(program, trained, tmp_path, refuse, monkeypatch):
    main = {"nice": nice.main, "sample": sample.main}[program]
    words = "--data --output --rows --epochs --model --seed --noise --prior --recipe -- - -1 0 1e9"
    words = [*words.split(), "nan", "", "inf", "é", "☃.gif", "inpaint", "x" * 5000, "a\nb", "\0"]
    words += [str(trained / "nice.keras"), str(tmp_path), "--data=", "1e-400", "0x10", "%s", "{}"]
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    for _ in range(COUNT):
        arguments = list(rng.choice(words, size=rng.integers(1, 7)))
        # an option that cannot be right, so that none of these starts a long run
        refuse(main, [*arguments, "--seed=-1" if rng.random() < 0.5 else "--no-such-option"])


def test_a_lambda_in_a_model_file_is_not_run(tmp_path, refuse):
    image = keras.Input((4,))
    model = keras.Model(image, keras.layers.Lambda(lambda x: print("gotcha") or x)(image))
    model.save(tmp_path / "evil.keras")
    refuse(sample.main, ["--model", tmp_path / "evil.keras"], "evil.keras", "Lambda")


def test_pickled_data_is_not_run(tmp_path, refuse):
    class Evil:
        def __reduce__(self):
            return print, ("gotcha",)

    evil = np.array([Evil()], dtype=object)
    np.savez(tmp_path / "evil.npz", x_train=evil, x_test=evil)
    output = ["--output", tmp_path / "output"]
    refuse(nice.main, ["--data", tmp_path / "evil.npz", *output], "evil.npz", "pickle")
