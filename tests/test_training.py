"""`python nice.py`: what a run leaves; runs that stop, are killed, or are refused."""

from support import data, files
from support.checkpoint import Checkpoint, best_epoch

import nice
import sample

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as imageio
import keras
import numpy as np
import pytest
from conftest import SMALL, train

SCRIPT = Path(nice.__file__)


def history(output):
    return json.loads((output / "history.json").read_text())


def weights(output):
    return nice.load(output / "nice.keras").get_weights()


def start(digits, output, *options, epochs=3, network=SMALL, **arguments):
    """Start `python nice.py` in a process of its own, with a small network."""
    command = [sys.executable, "-u", SCRIPT, "--data", digits, "--output", output]
    command += [*network, "--epochs", epochs, *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    words = [str(word) for word in command]
    return subprocess.Popen(words, errors="replace", **pipes, **arguments)


def wait_for(pattern, output, run):
    while not list(output.glob(pattern)) and run.poll() is None:
        time.sleep(0.005)
    assert list(output.glob(pattern)), run.communicate()


# --- A run ----------------------------------------------------------------------------


def test_what_a_run_leaves(trained, digits):
    rows = history(trained)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[2]["val_loss"] < rows[0]["val_loss"]
    assert sorted(path.name for path in trained.glob("samples/*")) == [
        f"epoch_000{n}.png" for n in (1, 2, 3)
    ]
    assert imageio.imread(trained / "samples" / "epoch_0003.png").shape == (420, 420)
    assert len(imageio.imread(trained / "training.gif", index=None)) == 3
    assert imageio.imread(trained / "training.png").ndim == 3
    assert not list(trained.glob("**/partial-*")) and not list(trained.glob("backup.*"))
    settings = json.loads((trained / "settings.json").read_text())
    assert settings["finished"] and settings["data"] == str(digits)
    encoder = nice.load(trained / "nice.keras")
    assert encoder.styles.labels == list(range(10))
    first = encoder.sample(225, source="prior")[0]
    tile = imageio.imread(trained / "samples" / "epoch_0003.png")[:28, :28]
    np.testing.assert_array_equal(tile, first)  # the best epoch was the third


def test_held_back_images_choose_the_epoch(trained, digits):
    """The last sixth, under their noise: the kept model has the lowest loss."""
    (x_train, _), _ = data.load(digits)
    encoder = nice.load(trained / "nice.keras")
    held = x_train[-round(len(x_train) / 6) :]
    loss = min(row["val_loss"] for row in history(trained))
    assert loss == pytest.approx(-encoder.log_likelihood(held).mean(), rel=5e-6)


def test_the_best_epoch_is_kept_not_the_last(tmp_path):
    encoder = nice.build_encoder((2, 2), hidden_layers=1, hidden_units=4)
    batches = nice.Batches(np.zeros((4, 2, 2)))
    keeper = Checkpoint(tmp_path, batches, encoder.without_optimizer())
    encoder.compile("adam")
    keeper.set_model(encoder)
    for epoch, loss in enumerate((3.0, 1.0, 2.0, float("nan"))):
        encoder.steps[-1].log_s_over_multiplier.assign(np.full(4, epoch))
        keeper.on_epoch_end(epoch, {"loss": 0.0, "val_loss": loss})
    kept = nice.load(tmp_path / "nice.keras")
    np.testing.assert_array_equal(kept.steps[-1].log_s_over_multiplier, np.full(4, 1.0))
    assert best_epoch(keeper.history)["epoch"] == 2
    assert [row["epoch"] for row in keeper.history] == [1, 2, 3, 4]


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
    assert (
        str(digits) in out and "200 test images" in out and "bits per dimension" in out
    )
    alone = tmp_path / "nice.keras"
    shutil.copy(trained / "nice.keras", alone)
    refuse(nice.main, ["--evaluate", "--output", tmp_path], "trained on: add --data")
    (tmp_path / "settings.json").write_text(
        json.dumps({"data": str(tmp_path / "gone.npz")})
    )
    refuse(nice.main, ["--evaluate", "--output", tmp_path], "gone.npz: no such file")


def test_few_images_do_not_let_the_test_images_choose(digits, tmp_path, capsys):
    (x_train, _), (x_test, _) = data.load(digits)
    np.savez(tmp_path / "few.npz", x_train=x_train[:3], x_test=x_test[:1])
    assert train(tmp_path / "few.npz", tmp_path / "out", epochs=1) == 0
    out = capsys.readouterr().out
    assert ", 2 images," in out and "±" not in out


def test_going_on_from_a_model(trained, digits, tmp_path, capsys, refuse):
    model = trained / "nice.keras"
    before = nice.load(model)
    output = tmp_path / "more"
    options = [
        "--start",
        model,
        "--output",
        output,
        "--epochs",
        1,
        "--learning-rate",
        0,
    ]
    assert nice.main(options) == 0  # on the data of the run it comes from
    assert str(digits) == json.loads((output / "settings.json").read_text())["data"]
    for a, b in zip(weights(output)[:9], before.get_weights()[:9], strict=True):
        np.testing.assert_array_equal(a, b)
    for option in (("--couplings", 3), ("--noise", 0), ("--prior", "logistic")):
        refuse(
            nice.main, [*options, *option], "--start takes the network from the model"
        )
    refuse(nice.main, ["--start", model, "--output", trained], "needs another --output")
    eyes = np.eye(8)[None].repeat(3, axis=0)
    np.savez(tmp_path / "other.npz", x_train=eyes, x_test=eyes)
    other = [
        "--start",
        model,
        "--output",
        tmp_path / "x",
        "--data",
        tmp_path / "other.npz",
    ]
    refuse(nice.main, other, "takes images (n, 28, 28)")


# --- Stopping and going on ------------------------------------------------------------


def test_killed_runs_go_on_as_if_nothing_had_happened(digits, tmp_path):
    """`kill -9` while a file is being written, and after an epoch; then Ctrl-C."""
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    run = start(digits, whole, epochs=9)
    _, error = run.communicate(timeout=300)
    assert run.returncode == 0, error
    for pattern in ("backup.0002.keras", "**/partial-*"):
        run = start(digits, killed, epochs=9)
        wait_for(pattern, killed, run)
        run.kill()
        run.communicate()
        if (killed / "nice.keras").exists():
            nice.load(killed / "nice.keras")
    done = len(history(killed))
    run = start(digits, killed, epochs=9)
    wait_for(f"samples/epoch_{done + 1:04}.png", killed, run)
    run.send_signal(signal.SIGINT)
    out, error = run.communicate(timeout=120)
    if run.returncode:  # else it had finished before
        assert run.returncode == 130, error
        assert error.splitlines()[-1] == "nice.py: stopped"
        run = start(digits, killed, epochs=9)
        _, error = run.communicate(timeout=300)
        assert run.returncode == 0, error
    assert history(killed) == history(whole)
    for a, b in zip(weights(killed), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not list(killed.glob("**/partial-*")) and not list(killed.glob("backup.*"))


def test_a_run_stopped_after_its_last_epoch_still_finishes(
    trained, digits, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(nice, "fit_styles", lambda *_: signal.raise_signal(signal.SIGINT))
        assert train(digits, tmp_path) == 130
    assert not json.loads((tmp_path / "settings.json").read_text()).get("finished")
    assert train(digits, tmp_path) == 0
    for a, b in zip(weights(tmp_path), weights(trained), strict=True):
        np.testing.assert_array_equal(a, b)


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
    assert all(
        partial.suffix == ".txt" and str(os.getpid()) in partial.name
        for partial in seen
    )


def test_a_full_disk(digits, tmp_path):
    resource = pytest.importorskip("resource")
    limit = (
        400_000  # bytes a file: the model fits, the backup with the optimiser does not
    )

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    run = start(digits, tmp_path, preexec_fn=fill)
    _, error = run.communicate(timeout=180)
    assert run.returncode == 1 and "Traceback" not in error, error
    line = error.splitlines()[-1]
    assert line.startswith(f"nice.py: cannot write {tmp_path / 'backup.0001.keras'}"), (
        line
    )
    nice.load(tmp_path / "nice.keras")
    assert not list(tmp_path.glob("**/partial-*"))
    assert train(digits, tmp_path) == 0


def test_a_run_that_diverges_keeps_its_best(digits, tmp_path, capsys):
    assert train(digits, tmp_path, "--learning-rate", "1e12", epochs=4) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("nice.py: training diverged")
    assert len(history(tmp_path)) < 4 and not list(tmp_path.glob("backup.*"))


def test_the_output_pipe_may_close(digits, tmp_path):
    run = start(digits, tmp_path, epochs=30)
    run.stdout.close()
    assert run.stderr.read().splitlines()[-1] == "nice.py: [Errno 32] Broken pipe"
    assert run.wait() == 1


class Tee:
    """A stdout as some consoles have it, with two methods only."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_a_stdout_without_isatty_will_do(digits, tmp_path, monkeypatch):
    tee = Tee()
    monkeypatch.setattr(sys, "stdout", tee)
    assert train(digits, tmp_path, epochs=1) == 0
    assert "next: python sample.py" in tee.text


def test_a_run_ends_well_without_stdout_or_its_characters(digits, tmp_path):
    """As under pythonw, where there is no stdout; and without "±", or Chinese."""
    output = tmp_path / "数字"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = start(digits, output, epochs=1, env=environment)
    out, error = run.communicate(timeout=120)
    assert run.returncode == 0, error
    assert "next: python sample.py" in out
    command = [sys.executable, str(SCRIPT), "--evaluate", "--output", str(output)]
    shell = ["sh", "-c", f"exec {shlex.join(command)} >&-"]
    assert subprocess.run(shell, env=environment, timeout=120).returncode == 0


# --- Folders and files ----------------------------------------------------------------


def test_finished_and_other_runs_are_not_overwritten(trained, digits, tmp_path, refuse):
    output = shutil.copytree(trained, tmp_path / "output")
    before = {path: path.read_bytes() for path in output.glob("**/*") if path.is_file()}
    again = ["--data", digits, "--output", output, *SMALL, "--epochs", 3]
    refuse(nice.main, again, output, "holds a finished run", "--fresh", "--start")
    settings = json.loads((output / "settings.json").read_text()) | {"finished": False}
    (output / "settings.json").write_text(json.dumps(settings))
    refuse(
        nice.main, [*again, "--seed", 1], "holds a run with seed 0, not 1", "--fresh"
    )
    eyes = np.eye(28)[None].repeat(3, axis=0)
    np.savez(tmp_path / "x.npz", x_train=eyes, x_test=eyes)
    refuse(nice.main, [*again, "--data", tmp_path / "x.npz"], "holds a run with data")
    (output / "settings.json").write_text(json.dumps({"couplings": 4}))
    refuse(nice.main, again, "holds a run of another version, with couplings 4")
    (output / "settings.json").unlink()
    refuse(nice.main, again, "holds a model that is of no run")
    (output / "settings.json").write_text("{")
    refuse(nice.main, again, "settings.json is damaged")
    (output / "settings.json").unlink()
    after = {path: path.read_bytes() for path in output.glob("**/*") if path.is_file()}
    assert (
        after == {path: before[path] for path in after}
        and len(after) == len(before) - 1
    )
    assert train(digits, output, "--fresh", epochs=1) == 0
    assert [row["epoch"] for row in history(output)] == [1]


def test_output_may_not_be_a_file(digits, tmp_path, refuse):
    (tmp_path / "file").write_text("")
    refuse(
        nice.main,
        ["--data", digits, "--output", tmp_path / "file"],
        "is a file: --output",
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other", "history"])
def test_a_damaged_backup_is_refused(damage, trained, digits, tmp_path, refuse):
    output = shutil.copytree(trained, tmp_path / "output")
    settings = json.loads((output / "settings.json").read_text()) | {"finished": False}
    (output / "settings.json").write_text(json.dumps(settings))
    content = bytearray((output / "nice.keras").read_bytes())
    backup = {"cut": content[:-100], "empty": b"", "other": content, "history": content}
    content[len(content) // 2] ^= 1
    (output / "backup.0003.keras").write_bytes(backup.get(damage, content))
    if damage == "history":
        (output / "history.json").unlink()
    again = ["--data", digits, "--output", output, *SMALL, "--epochs", 3]
    refuse(nice.main, again, "backup.0003.keras is damaged", "use --fresh")
    nice.load(output / "nice.keras") if damage != "flipped" else None


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
    words = (
        "no such model"
        if damage in ("folder", "none")
        else "damaged, no NICE model, or one of"
    )
    for main, arguments in (
        (nice.main, ["--evaluate", "--data", digits, "--output", tmp_path]),
        (sample.main, ["--model", path]),
    ):
        refuse(main, arguments, path, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "argument --epochs: must be at least 1, got 0"),
        (["--epochs", "x"], "invalid number value: 'x'"),
        (["--learning-rate", "nan"], "must be at least 0.0, got nan"),
        (["--noise", "-1"], "must be at least 0.0"),
        (["--seed", "-1"], "must be at least 0"),
        (["--recipe", "glow"], "invalid choice: 'glow'"),
        (["--hidden-units", "0"], "must be at least 1"),
        (["--frsh"], "unrecognized arguments: --frsh"),
    ],
)
def test_bad_options(arguments, words, refuse):
    refuse(nice.main, arguments, words)


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="Keras trains on several only there"
)
@pytest.mark.parametrize(("size", "used"), [(100, "all"), (99, "1 of 2 devices")])
def test_several_devices(size, used, trained, digits, tmp_path):
    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    networks = {"new": SMALL, "started": ["--start", trained / "nice.keras"]}
    for name, network in networks.items():
        output = tmp_path / name
        more = ["--batch-size", size]
        run = start(digits, output, *more, epochs=1, network=network, env=flags)
        out, error = run.communicate(timeout=120)
        assert run.returncode == 0, error
        assert ("1 of 2 devices" in out) == (used != "all")
        assert nice.load(output / "nice.keras").styles is not None


@pytest.mark.parametrize("backend", ["pytorch", "openvino"])
def test_an_unknown_backend_is_one_line(backend):
    environment = os.environ | {"KERAS_BACKEND": backend}
    command = [sys.executable, SCRIPT]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert (
        run.stderr == f"KERAS_BACKEND is '{backend}': choose tensorflow, jax or torch\n"
    )


def test_importing_leaves_the_process_as_it_was():
    """As `%run nice.py` in a notebook does: signals, stderr, modules."""
    code = (
        "import os, runpy, signal, sys;"
        "handler = lambda: signal.getsignal(signal.SIGINT);"
        "state = lambda: (handler(), os.fstat(2).st_ino, sys.stderr);"
        "before = state(); runpy.run_path('nice.py', run_name='notebook');"
        "assert state() == before and None not in sys.modules.values()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, check=True)
