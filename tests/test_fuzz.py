"""Damaged files and strange command lines: refused in one line, or read as what they were.

NICE_FUZZ sets how many of each are tried.
"""

import dataclasses
import functools
import os
from pathlib import Path

import keras
import numpy as np
import pytest

import nice
import sample
from support import command_line, data
from support.pictures import Sheet

COUNT = int(os.environ.get("NICE_FUZZ", 25))

# --- Damaged files ---------------------------------------------------------------------------


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
        cut = max(0, len(content) - 2000) if trial % 2 else 0
        broken.write_bytes(content[:cut] + damaged(content[cut:], rng))
        try:
            found = read(broken)
        except ValueError as error:
            assert str(error).startswith(str(broken)) and "\n" not in str(error)
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


@pytest.mark.parametrize("read", [data.load_images, data.load_test_images])
def test_damaged_data(read, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(20, 8, 8), dtype="uint8")
    np.savez_compressed(tmp_path / "a.npz", x_train=images, x_test=images, y_test=np.arange(20))
    refused, whole = fuzz(tmp_path / "a.npz", read, tmp_path)
    print(f"data: {refused} refused, {whole} read whole")
    assert refused > COUNT / 2


def test_a_damaged_name_hides_no_labels(tmp_path):
    """A zip file has each name twice; only the one in its directory, at the end, is looked up."""
    path, images = tmp_path / "a.npz", np.zeros((4, 2, 2), "uint8")
    np.savez(path, x_train=images, x_test=images, y_test=np.arange(4))
    before, after = path.read_bytes().rsplit(b"y_test", 1)
    path.write_bytes(before + b"y_tesu" + after)
    with pytest.raises(ValueError, match="a.npz: not a readable .npz file"):
        data.load_test_images(path)


# --- Code in files ---------------------------------------------------------------------------


def test_a_lambda_in_a_model_file_is_not_run(tmp_path, refuse):
    trace, evil = tmp_path / "gotcha", tmp_path / "evil.keras"
    image, path = keras.Input((4,)), str(trace)
    layer = keras.layers.Lambda(lambda x: open(path, "w").close() or x, output_shape=(4,))
    keras.Model(image, layer(image)).save(evil)
    trace.unlink(missing_ok=True)
    refuse(sample.main, ["--model", evil], "evil.keras: not a usable NICE model", "Lambda")
    assert not trace.exists()
    model = keras.saving.load_model(evil, safe_mode=False)
    model(np.zeros((1, 4), "float32"))
    assert trace.exists()  # it would have


def test_pickled_data_is_not_run(tmp_path, refuse):
    trace, file = tmp_path / "gotcha", tmp_path / "evil.npz"

    class Evil:
        def __reduce__(self):
            return open, (str(trace), "w")

    evil = np.array([Evil()], dtype=object)
    np.savez(file, x_train=evil, x_test=evil)
    refuse(nice.main, ["--data", file, "--output", tmp_path / "output"], "evil.npz", "pickle")
    assert not trace.exists()
    with np.load(file, allow_pickle=True) as arrays:
        arrays["x_train"][0].close()
    assert trace.exists()  # it would have


# --- Command lines ---------------------------------------------------------------------------


class Trains(Exception):
    """A command line came as far as training."""


@pytest.fixture
def outcome(trained, digits, tmp_path, monkeypatch, capsys):
    """Run a program's main; say whether it "works", is "refused" in one line, or gives "help".

    Instead of training it stops, networks and pictures are small, data and model are small ones
    by default. The rest is real.
    """

    def train(*_):
        raise Trains

    def stand_in(function):
        @functools.wraps(function)
        def draw(*_, **__):
            return Sheet(np.zeros((1, 2, 4, 4)))

        return draw

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "MNIST", digits)
    model = Path("output") / "nice.keras"
    model.parent.mkdir()
    model.write_bytes((trained / "nice.keras").read_bytes())
    monkeypatch.setattr(command_line, "MODEL", model)
    monkeypatch.setattr(nice, "train", train)
    for name, recipe in nice.RECIPES.items():
        small = dataclasses.replace(recipe, couplings=1, hidden_layers=1, hidden_units=8)
        monkeypatch.setitem(nice.RECIPES, name, small)
    for name, function in sample.PICTURES.items():
        monkeypatch.setitem(sample.PICTURES, name, stand_in(function))

    def run(program, arguments):
        capsys.readouterr()
        try:
            assert program.main([str(argument) for argument in arguments]) == 0
        except Trains:
            assert program is nice
            return "works"
        except SystemExit as end:
            printed = capsys.readouterr()
            if end.code == 0:
                assert printed.out.startswith("usage: ") and not printed.err
                return "help"
            assert end.code == 2
            assert printed.err.startswith(f"{program.__name__}.py: error: ")
            assert printed.err.count("\n") == 1 and printed.err.endswith("\n")
            return "refused"
        assert program is sample
        assert Path(capsys.readouterr().out.splitlines()[-1]).is_file()
        return "works"

    return run


# Pieces of command lines: on their own each of the first works, and none of the others.
GOOD = {
    nice: ["--epochs 2", "--seed=0", "--noise 0.5", "--prior logistic", "--fresh", "--noise=0"]
    + ["--recipe paper", "--recipe=article", "--learning-rate 1e-400", "--batch-size 7"],
    sample: ["--rows 2", "--columns=3", "--seed 0", "--temperature 0", "--temperature=1e-400"]
    + ["--source prior", "--source=fitted", "samples"],
}
BAD = {
    nice: ["--epochs 0", "--seed=-1", "--noise nan", "--prior é", "--recipe", "--noise=-1e-9"]
    + ["--epochs 1.5", "--learning-rate inf", "--batch-size 0x10", "--no-such", "samples", "-1"]
    + ["--rows 2", "--fresh=1", "--evaluate=", "--epoch 2", "--couplings 0", "--data missing"],
    sample: ["--rows 0", "--columns=x", "--seed -1", "--temperature nan", "--temperature=-0.1"]
    + ["--code prior", "--steps 3", "é", "--epochs 2", "--row 2", "--seed 1e9", "--rows=-"]
    + ["--model missing.keras", "--output a.mp4", "--data missing", "--output .png/"],
}


@pytest.mark.parametrize("program", [nice, sample], ids=["nice", "sample"])
def test_command_lines_are_refused_where_a_piece_is_wrong(program, outcome, tmp_path):
    """A line of right pieces works, and one wrong piece among them has it refused."""
    rng = np.random.default_rng(0)
    bad = [*BAD[program], *rng.choice(BAD[program], COUNT)][:COUNT]  # each of them, and more

    def some_good():
        chosen = rng.choice([piece for piece in GOOD[program] if piece != "samples"], 3)
        return [*chosen, *(["samples"] if program is sample and rng.random() < 0.5 else [])]

    for trial, piece in enumerate(bad):
        output = f"--output=run_{trial}" + (".png" if program is sample else "")
        pieces = [output, *rng.permutation(some_good())]
        words = [word for part in pieces for word in part.split(" ")]
        if trial % 5 == 0:
            assert outcome(program, words) == "works", words
        if "--output" in piece:
            words = words[1:]
        words += piece.split(" ")
        assert outcome(program, words) == "refused", words
    for piece in GOOD[program]:
        end = ["--output", "alone" if program is nice else "alone.png", "--fresh"]
        words = [*piece.split(" "), *(end if program is nice else end[:2])]
        assert outcome(program, words) == "works", words


@pytest.mark.parametrize("program", [nice, sample], ids=["nice", "sample"])
def test_strange_command_lines(program, outcome, trained, tmp_path):
    """Whatever the words, a program works, or refuses them in one line."""
    words = "--data --output --rows --epochs --model --seed --noise --prior --recipe -- - -1 0 1e9"
    words = [*words.split(), "nan", "", "inf", "é", "☃.gif", "inpaint", "x" * 5000, "a\nb", "\0"]
    words += [str(trained / "nice.keras"), str(tmp_path), "--data=", "1e-400", "0x10", "%s", "{}"]
    words += ["--output=" + "x" * 300 + ".png", "--output=output/nice.keras/a.png"]
    words += ["-h", "--help", "anneal", "--output=a.png", "--source", "prior", "--steps=2", "%"]
    rng = np.random.default_rng(1)
    seen = []
    for _ in range(4 * COUNT):
        arguments = [str(word) for word in rng.choice(words, size=rng.integers(1, 5))]
        seen.append(outcome(program, arguments))
    assert outcome(program, []) == ("works" if program is sample else "refused")  # a model is here
    assert seen.count("refused") > COUNT
    assert seen.count("help") and (program is nice or seen.count("works"))
