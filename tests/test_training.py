"""`python nice.py`: what a run leaves; runs that stop, are killed, or are refused."""

from support import command_line, data, devices, files
from support.checkpoint import Checkpoint, best_epoch
from support.errors import UserError

import layers
import nice
import sample

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import keras
import numpy as np
import pytest
from conftest import SMALL, train

SCRIPT = Path(nice.__file__)
OLD = Path(__file__).parent / "model_355e131"


def history(output):
    return files.read_json(output / "history.json")


def weights(output):
    return nice.load(output / "nice.keras").get_weights()


def change_settings(output, **changes):
    settings = files.read_json(output / "settings.json")
    files.write_json(output / "settings.json", settings | changes)


def run(*command, **options):
    """Run Python in a process of its own, in the repository: its end, and its texts."""
    words = [str(word) for word in (sys.executable, *command)]
    options = {"capture_output": True, "text": True, "cwd": SCRIPT.parent, **options}
    return subprocess.run(words, errors="replace", timeout=300, **options)


# --- A run ----------------------------------------------------------------------------


def test_what_a_run_leaves(trained, digits):
    rows = history(trained)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[2]["val_loss"] < rows[0]["val_loss"]
    assert sorted(path.name for path in trained.glob("samples/*")) == [
        f"epoch_000{n}.png" for n in (1, 2, 3)
    ]
    grid = imageio.imread(trained / "samples" / "epoch_0003.png")
    assert grid.shape == (420, 420)
    assert len(imageio.imread(trained / "training.gif", index=None)) == 3
    assert imageio.imread(trained / "training.png").ndim == 3
    assert not list(trained.glob("**/partial-*")) and not list(trained.glob("backup.*"))
    settings = files.read_settings(trained)
    assert settings["finished"] and settings["data"] == str(digits)
    model = nice.load(trained / "nice.keras")
    assert model.mixture.labels == list(range(10))
    # The best epoch was the third, so its grid shows the model that is kept.
    first = model.sample(225, temperature=0.8)[0]
    np.testing.assert_array_equal(grid[:28, :28], first)


def test_held_back_images_choose_the_epoch(trained, digits):
    """The last sixth, under their noise: the kept model has the lowest loss."""
    (x_train, _), _ = data.load(digits)
    model = nice.load(trained / "nice.keras")
    held = x_train[-round(len(x_train) / 6) :]
    loss = min(row["val_loss"] for row in history(trained))
    assert loss == pytest.approx(-model.log_likelihood(held).mean(), rel=5e-6)


def test_the_best_epoch_is_kept_not_the_last(tmp_path):
    """After one that is not finite training stops, and neither grid nor backup."""
    model = nice.build_encoder((2, 2), hidden_layers=1, hidden_units=4)
    keeper = Checkpoint(tmp_path, model.without_optimizer())
    model.compile("adam")
    keeper.set_model(model)
    losses = ((1.0, 3.0), (1.0, 1.0), (1.0, 2.0), (float("nan"), 0.5))
    for epoch, (loss, val_loss) in enumerate(losses[:3]):
        model.steps[-1].log_s_over_multiplier.assign(np.full(4, epoch))
        keeper.on_epoch_end(epoch, {"loss": loss, "val_loss": val_loss})
    kept = nice.load(tmp_path / "nice.keras")
    np.testing.assert_array_equal(kept.steps[-1].log_s_over_multiplier, np.full(4, 1.0))
    assert best_epoch(keeper.history)["epoch"] == 2
    assert not model.stop_training
    keeper.on_epoch_end(3, {"loss": float("nan"), "val_loss": float("nan")})
    assert model.stop_training
    assert best_epoch(keeper.history)["epoch"] == 2
    assert [row["epoch"] for row in history(tmp_path)] == [1, 2, 3, 4]
    assert [path.name for path in keeper.backups()] == ["backup.0003.keras"]
    assert len(list(tmp_path.glob("samples/*"))) == 3


def test_the_articles_test_images_choose_the_epoch(digits, tmp_path, capsys):
    """Without noise; they are then no test, and their likelihood is not printed."""
    assert train(digits, tmp_path, "--recipe", "article", epochs=1) == 0
    assert "test images:" not in capsys.readouterr().out
    _, (x_test, _) = data.load(digits)
    model = nice.load(tmp_path / "nice.keras")
    nats = model.log_likelihood(x_test, noise=0)
    assert history(tmp_path)[0]["val_loss"] == pytest.approx(-nats.mean(), rel=1e-4)


def test_evaluate_measures_the_runs_own_data(trained, tmp_path, digits, capsys, refuse):
    assert nice.main(["--evaluate", "--output", trained]) == 0
    out = capsys.readouterr().out
    assert str(digits) in out
    assert "200 test images" in out and "bits per dimension" in out
    shutil.copy(trained / "nice.keras", tmp_path)
    evaluate = ["--evaluate", "--output", tmp_path]
    refuse(nice.main, evaluate, "trained on: add --data")
    gone = tmp_path / "gone.npz"
    files.write_json(tmp_path / "settings.json", {"data": str(gone)})
    refuse(nice.main, evaluate, "gone.npz: no such file", "say where with --data")
    assert nice.main([*evaluate, "--data", digits]) == 0


def test_the_bundled_digits_may_move_with_the_repository(tmp_path):
    """Settings name no place then. Other data is named by its place."""
    assert files.record(data.MNIST) is None
    assert files.record("mine.npz") == str(Path("mine.npz").resolve())
    (tmp_path / "nice.keras").touch()
    files.write_json(tmp_path / "settings.json", {"data": None})
    assert files.recorded_data(tmp_path / "nice.keras") == data.MNIST


class Console:
    """A stdout as some consoles have it, with two methods only."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_few_images_do_not_let_the_test_images_choose(digits, tmp_path, monkeypatch):
    """Nor do an odd stdout, or a space in the name of the folder, do any harm."""
    (x_train, _), (x_test, _) = data.load(digits)
    np.savez(tmp_path / "few.npz", x_train=x_train[:3], x_test=x_test[:1])
    console = Console()
    monkeypatch.setattr(sys, "stdout", console)
    output = tmp_path / "my run"
    assert train(tmp_path / "few.npz", output, epochs=1) == 0
    assert ", 2 images," in console.text and "±" not in console.text
    model = shlex.quote(str(output / "nice.keras"))
    last = console.text.splitlines()[-1]
    assert last == f"next: python sample.py --model {model}"


def test_going_on_from_a_model(trained, digits, tmp_path, refuse):
    model = trained / "nice.keras"
    before = nice.load(model)
    output = tmp_path / "more"
    options = ["--start", model, "--output", output, "--epochs", 1]
    options += ["--learning-rate", 0]
    assert nice.main(options) == 0  # on the data of the run it comes from
    settings = files.read_settings(output)
    assert settings["data"] == str(digits)
    assert settings["start"] == files.checksum(model)
    for a, b in zip(weights(output)[:9], before.get_weights()[:9], strict=True):
        np.testing.assert_array_equal(a, b)
    change_settings(output, finished=False, start="another")
    refuse(nice.main, options, "holds a run that started from another model")
    for option in (("--couplings", 3), ("--noise", 0), ("--prior", "logistic")):
        words = "--start takes the network from the model"
        refuse(nice.main, [*options, *option], words)
    refuse(nice.main, ["--start", model, "--output", trained], "needs another --output")
    eyes = np.eye(8)[None].repeat(3, axis=0)
    np.savez(tmp_path / "other.npz", x_train=eyes, x_test=eyes)
    other = ["--start", model, "--output", tmp_path / "x"]
    other += ["--data", tmp_path / "other.npz"]
    refuse(nice.main, other, "takes images (n, 28, 28)")


def test_train_from_python(tmp_path, capsys):
    """A folder is one run's: its model, recipe and images; to ask again goes on."""
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 2), dtype="uint8")
    recipe = nice.Recipe(epochs=2, batch_size=4)
    held = nice.Batches(images[8:], shuffle=False)

    def call(images=images[:8], recipe=recipe, **options):
        model = nice.build_encoder((4, 2), hidden_layers=1, hidden_units=4)
        batches = nice.Batches(images, recipe.batch_size)
        rows = nice.train(model, batches, held, recipe, tmp_path, **options)
        return rows, batches

    rows, batches = call(note="mine")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert batches.epoch == 1  # each epoch had its own order and noise
    assert files.read_settings(tmp_path)["note"] == "mine"
    assert call(note="mine")[0] == rows  # nothing is left to do
    assert "going on after epoch 2" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds a run with other images"):
        call(images[:8][::-1], note="mine")
    with pytest.raises(UserError, match="holds a run with note mine, not yours"):
        call(note="yours")
    with pytest.raises(UserError, match="holds a run with epochs 2, not 3"):
        call(recipe=nice.Recipe(epochs=3, batch_size=4), note="mine")
    change_settings(tmp_path, finished=True)
    with pytest.raises(UserError, match="holds a finished run"):
        call(note="mine")


# --- Stopping and going on ------------------------------------------------------------

# `python nice.py`, killed by the system while it writes the backup of epoch 2.
KILLED = """
import os, signal, sys
sys.argv[0] = "nice.py"
import nice

replace = os.replace

def replace_or_die(source, target):
    if "backup.0002" in str(target):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = replace_or_die
sys.exit(nice.main())
"""


def test_killed_runs_go_on_as_if_nothing_had_happened(
    trained, digits, tmp_path, monkeypatch, capsys
):
    """`kill -9` while a file is written; Ctrl-C in an epoch, and after the last one.

    Its data has moved at the end. The run that nothing stopped is that of `trained`.
    """
    output = tmp_path / "output"
    moved = shutil.copy(digits, tmp_path / "moved.npz")
    options = ["--data", digits, "--output", output, *SMALL, "--epochs", 3]
    killed = run("-c", KILLED, *options)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in output.glob("backup.*")] == ["backup.0001.keras"]
    assert list(output.glob("partial-*-backup.0002.keras"))
    nice.load(output / "nice.keras")

    def stop(*_):
        signal.raise_signal(signal.SIGINT)

    def stop_in_the_third(self, epoch, logs=None):
        if epoch == 2:
            stop()
        self.batches.start_epoch(epoch)

    with monkeypatch.context() as patch:
        patch.setattr(nice.StartEpoch, "on_epoch_begin", stop_in_the_third)
        assert train(digits, output) == 130
    said = capsys.readouterr()
    assert "going on after epoch 1" in said.out
    assert said.err.splitlines()[-1] == "nice.py: stopped"
    assert not list(output.glob("**/partial-*"))

    with monkeypatch.context() as patch:
        patch.setattr(nice, "fit_mixture", stop)
        assert train(digits, output) == 130
    assert "going on after epoch 2" in capsys.readouterr().out
    assert not files.read_settings(output).get("finished")

    assert train(moved, output) == 0
    assert "going on after epoch 3" in capsys.readouterr().out
    assert files.recorded_data(output / "nice.keras") == moved
    assert history(output) == history(trained)
    for a, b in zip(weights(output), weights(trained), strict=True):
        np.testing.assert_array_equal(a, b)
    kept = nice.load(output / "nice.keras").mixture.arrays()
    for name, array in nice.load(trained / "nice.keras").mixture.arrays().items():
        np.testing.assert_array_equal(kept[name], array)
    assert not list(output.glob("backup.*"))


def test_a_file_is_replaced_whole(tmp_path):
    """Ctrl-C waits; the temporary name keeps the suffix; a failure leaves the old."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    seen = []

    def write(partial, fail=False):
        seen.append(partial)
        signal.raise_signal(signal.SIGINT)
        partial.write_text("new")
        if fail:
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        files.write_whole(path, lambda partial: write(partial, fail=True))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyboardInterrupt):
        files.write_whole(path, write)
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
    for partial in seen:
        assert partial.suffix == ".txt" and str(os.getpid()) in partial.name


def test_a_full_disk(digits, tmp_path, capsys):
    """The model fits, the backup with the optimiser does not; then there is room."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))  # bytes a file
    try:
        assert train(digits, tmp_path, epochs=1) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    line = capsys.readouterr().err.splitlines()[-1]
    backup = tmp_path / "backup.0001.keras"
    assert line.startswith(f"nice.py: cannot write {backup}"), line
    nice.load(tmp_path / "nice.keras")
    assert not list(tmp_path.glob("**/partial-*"))
    assert train(digits, tmp_path, epochs=1) == 0


def test_a_run_that_diverges_keeps_its_best(digits, tmp_path, monkeypatch, capsys):
    def spoil(self, epoch, logs=None):
        self.batches.start_epoch(epoch)
        if epoch == 1:
            weight = self.model.steps[-1].log_s_over_multiplier
            weight.assign(np.full(weight.shape, 1e30))

    monkeypatch.setattr(nice.StartEpoch, "on_epoch_begin", spoil)
    assert train(digits, tmp_path) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    model = tmp_path / "nice.keras"
    assert error.startswith("nice.py: training diverged: lower --learning-rate")
    assert error.endswith(f"its best model is {model}")
    assert [row["epoch"] for row in history(tmp_path)] == [1, 2]
    assert np.isfinite(nice.load(model).sample(1, source="prior")).all()
    assert files.read_settings(tmp_path)["finished"]
    assert not list(tmp_path.glob("backup.*"))


def test_fresh_keeps_the_old_model_aside(trained, digits, tmp_path, capsys, refuse):
    """A new run that diverges at once has no model, and no other is taken for its."""
    output = shutil.copytree(trained, tmp_path / "output")
    assert train(digits, output, "--fresh", "--learning-rate", "1e30") == 1
    said = capsys.readouterr()
    previous = output / "nice.previous.keras"
    assert f"the old model is now {previous}" in said.out
    assert said.err.splitlines()[-1].endswith("there is no model of it")
    assert previous.read_bytes() == (trained / "nice.keras").read_bytes()
    assert [row["epoch"] for row in history(output)] == [1]
    assert not list(output.glob("samples/*"))
    refuse(nice.main, ["--evaluate", "--output", output], "nice.keras: no such model")
    refuse(sample.main, ["--model", output / "nice.keras"], "no such model")


def test_the_output_pipe_may_close(digits, tmp_path):
    command = [sys.executable, "-u", SCRIPT, "--data", digits, "--output", tmp_path]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen([*map(str, command), *SMALL], **pipes)
    child.stdout.close()
    assert child.stderr.read().splitlines()[-1] == "nice.py: [Errno 32] Broken pipe"
    assert child.wait() == 1


def test_a_run_ends_well_without_stdout_or_its_characters(
    trained, tmp_path, monkeypatch
):
    """As under pythonw, where there is no stdout; and without "±", or Chinese."""
    output = shutil.copytree(trained, tmp_path / "数字")
    evaluate = ["--evaluate", "--output", str(output)]
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        assert nice.main(evaluate) == 0
    stdout.flush()
    text = stdout.buffer.getvalue().decode("ascii")
    assert " ? " in text and text.endswith("bits per dimension\n")
    command = shlex.join([sys.executable, str(SCRIPT), *evaluate])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shell = ["sh", "-c", f"exec {command} >&-"]
    assert subprocess.run(shell, env=environment, timeout=120).returncode == 0


# --- Folders and files ----------------------------------------------------------------


def contents(folder):
    """What the files below a folder hold, by their paths."""
    return {path: path.read_bytes() for path in folder.glob("**/*") if path.is_file()}


def test_finished_and_other_runs_are_not_overwritten(trained, digits, tmp_path, refuse):
    output = shutil.copytree(trained, tmp_path / "output")
    settings = output / "settings.json"
    before = contents(output)
    again = ["--data", digits, "--output", output, *SMALL, "--epochs", 3]
    refuse(nice.main, again, output, "holds a finished run", "--fresh", "--start")
    change_settings(output, finished=False)
    words = "holds a run with seed 0, not 1"
    refuse(nice.main, [*again, "--seed", 1], words, "--fresh")
    (x_train, y_train), (x_test, y_test) = data.load(digits)
    arrays = {"x_train": x_train[::-1], "y_train": y_train[::-1], "x_test": x_test}
    np.savez(tmp_path / "x.npz", **arrays)
    other = [*again, "--data", tmp_path / "x.npz"]
    refuse(nice.main, other, "holds a run with other images")
    settings.write_text(json.dumps({"couplings": 4}))
    refuse(nice.main, again, "holds a run of another version, with couplings 4")
    settings.unlink()
    refuse(nice.main, again, "holds a model that is of no run")
    settings.write_text("{")
    refuse(nice.main, again, "settings.json is damaged")
    settings.unlink()
    del before[settings]
    assert contents(output) == before


def test_output_may_not_be_a_file(digits, tmp_path, refuse):
    path = tmp_path / "file"
    path.write_text("")
    refuse(nice.main, ["--data", digits, "--output", path], "is a file: --output")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other", "history"])
def test_a_damaged_backup_is_refused(damage, trained, digits, tmp_path, refuse):
    output = shutil.copytree(trained, tmp_path / "output")
    change_settings(output, finished=False)
    content = bytearray((output / "nice.keras").read_bytes())
    backup = {"cut": content[:-100], "empty": b"", "other": content, "history": content}
    content[len(content) // 2] ^= 1
    (output / "backup.0003.keras").write_bytes(backup.get(damage, content))
    if damage == "history":
        (output / "history.json").unlink()
    again = ["--data", digits, "--output", output, *SMALL, "--epochs", 3]
    refuse(nice.main, again, "backup.0003.keras is damaged", "use --fresh")
    nice.load(output / "nice.keras")


@pytest.mark.parametrize(
    "damage", ["cut", "flipped", "empty", "text", "folder", "keras", "none"]
)
def test_a_model_that_cannot_be_used_is_refused(
    damage, trained, digits, tmp_path, refuse
):
    path = tmp_path / "nice.keras"
    content = bytearray((trained / "nice.keras").read_bytes())
    flipped = content.copy()
    flipped[len(content) // 2] ^= 1
    damaged = {
        "cut": content[:-100],
        "flipped": flipped,
        "empty": b"",
        "text": b"hello",
    }
    if damage == "folder":
        path.mkdir()
    elif damage == "keras":
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)
    elif damage != "none":
        path.write_bytes(damaged[damage])
    words = {"folder": f"is a folder: name the model in it, {path / 'nice.keras'}"}
    words["none"] = "no such model"
    expected = words.get(damage, "damaged, no NICE model, or one of")
    evaluate = ["--evaluate", "--data", digits, "--output", tmp_path]
    start = ["--start", path, "--data", digits, "--output", tmp_path / "new"]
    refuse(nice.main, evaluate, path, expected)
    refuse(nice.main, start, path, expected)
    refuse(sample.main, ["--model", path], path, expected)


def test_a_step_that_is_not_defined_is_named(tmp_path, refuse):
    """As when a model with a reader's own step is opened at the command line."""

    @keras.saving.register_keras_serializable("gone")
    class OwnStep(layers.DiagonalScaling):
        pass

    path = tmp_path / "nice.keras"
    nice.Flow((4, 2), [OwnStep()]).save(path)
    del keras.saving.get_custom_objects()["gone>OwnStep"]
    words = (f"{path} holds a OwnStep", "only a program that defines or imports")
    refuse(sample.main, ["--model", path], *words)
    refuse(nice.main, ["--evaluate", "--output", tmp_path], *words)


def test_a_model_of_commit_355e131_opens_and_draws_the_same():
    """What that commit's `python nice.py` has left of digits of 8 x 8 pixels.

    `expected.npz` holds what it drew at T = 0.8. In its settings.json "data" was a
    path of the machine. On another backend a value may round the other way.
    """
    model = nice.load(OLD / "nice.keras")
    expected = np.load(OLD / "expected.npz")
    draws = {
        "prior": model.sample(6, 0.8, source="prior"),
        "mixture": model.sample(6, 0.8, source="mixture"),
        "seven": model.sample(3, 0.8, label=7),
    }
    for name, images in draws.items():
        np.testing.assert_allclose(images.astype(int), expected[name], atol=1)
    _, (x_test, _) = data.load(OLD / "digits8.npz")
    nats = model.log_likelihood(x_test[:10])
    np.testing.assert_allclose(nats, expected["nats"], atol=1e-3)


def test_a_run_of_commit_355e131_is_not_gone_on_with(tmp_path, refuse):
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    change_settings(tmp_path, finished=False)
    options = ["--data", tmp_path / "digits8.npz", "--output", tmp_path, "--epochs", 15]
    options += "--couplings 2 --hidden-layers 1 --hidden-units 24".split()
    words = "holds a run of another version, with decay 0.3"
    refuse(nice.main, [*options, "--batch-size", 50], words, "--fresh")


# --- Options, devices, backends -------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "argument --epochs: must be at least 1, got 0"),
        (["--epochs", "x"], "invalid number value: 'x'"),
        (["--learning-rate", "nan"], "must be at least 0.0, got nan"),
        (["--noise", "-1"], "must be at least 0.0"),
        (["--seed", "-1"], "must be at least 0"),
        (["--seed", "4294967296"], "must be at most 4294967295, got 4294967296"),
        (["--recipe", "glow"], "invalid choice: 'glow'"),
        (["--hidden-units", "0"], "must be at least 1"),
        (["--frsh"], "unrecognized arguments: --frsh"),
        (["--evaluate", "--fresh"], "--evaluate only measures"),
        (["--evaluate", "--recipe", "paper"], "--evaluate only measures"),
        (["--evaluate", "--epochs", "3"], "--evaluate only measures"),
        (["--evaluate", "--couplings", "3"], "--evaluate only measures"),
        (["--evaluate", "--start", "x.keras"], "--evaluate only measures"),
    ],
)
def test_bad_options(arguments, words, refuse):
    refuse(nice.main, arguments, words)


def test_the_home_folder_is_found_where_a_shell_does_not(monkeypatch, tmp_path):
    """A shell leaves the ~ in --output=~/x as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    argv = ["--output=~/x", "--data=~/d.npz", "--start=~/m.keras"]
    args, _ = command_line.parse_training(
        argv, nice.RECIPES, nice.build_encoder, list(layers.PRIORS)
    )
    found = [args.output, args.data, args.start]
    assert found == [tmp_path / "x", tmp_path / "d.npz", tmp_path / "m.keras"]
    args, _ = sample.parse(["--model=~/m.keras"])
    assert args.output == tmp_path / "samples.png"


@pytest.mark.parametrize(
    ("backend", "count", "sizes", "line"),
    [
        ("tensorflow", 1, (99, 400, 0), ""),
        ("jax", 1, (99, 400, 0), ""),
        (
            "jax",
            2,
            (99, 400, 0),
            "1 of 2 devices: all are used if they divide batches of 99, 400\n",
        ),
        ("tensorflow", 2, (100,), "1 of 2 devices: nice.py uses several on JAX only\n"),
    ],
)
def test_what_is_said_of_devices(backend, count, sizes, line, monkeypatch, capsys):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    names = [f"cpu:{number}" for number in range(count)]
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: names)
    devices.use_all(*sizes)
    assert capsys.readouterr().out == line


# Two runs on two devices, the second from the first one's model.
ON_TWO = """
import sys
import keras, nice

data, first, second, *options = sys.argv[1:]
start = ["--start", first + "/nice.keras", "--epochs", "1", "--batch-size", "100"]
assert nice.main(["--data", data, "--output", first, *options]) == 0
assert len(keras.distribution.distribution().device_mesh.devices.flat) == 2
assert nice.main(["--data", data, "--output", second, *start]) == 0
"""


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="Keras trains on several only there"
)
def test_several_devices(digits, tmp_path):
    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    folders = [tmp_path / "first", tmp_path / "second"]
    ended = run("-c", ON_TWO, digits, *folders, *SMALL, "--epochs", 1, env=flags)
    assert ended.returncode == 0, ended.stderr
    assert "of 2 devices" not in ended.stdout
    for folder in folders:
        assert nice.load(folder / "nice.keras").mixture is not None


@pytest.mark.parametrize("backend", ["pytorch", "openvino"])
def test_an_unknown_backend_is_one_line(backend):
    ended = run(SCRIPT, env=os.environ | {"KERAS_BACKEND": backend})
    assert ended.returncode == 1
    line = f"KERAS_BACKEND is '{backend}': choose tensorflow, jax or torch\n"
    assert ended.stderr == line
