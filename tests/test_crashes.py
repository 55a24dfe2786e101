"""Runs that are stopped, killed, or run out of room, in processes of their own.

NICE_KILLS sets how often `kill -9` is tried.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from conftest import SMALL, train

import nice

KILLS = int(os.environ.get("NICE_KILLS", 2))
SCRIPT = Path(nice.__file__)


def start(digits, output, *options, epochs=3, **arguments):
    """Start `python nice.py` in a process of its own, with a small network."""
    command = [sys.executable, "-u", SCRIPT, "--data", digits, "--output", output, *SMALL]
    command += ["--epochs", epochs, *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in command], **pipes, **arguments)


def check_whole(output):
    """Every file that has its final name can be read, and holds what it should."""
    for path in output.glob("samples/epoch_*.png"):
        assert imageio.imread(path).shape == (420, 420)
    history = nice.read_history(output) if (output / "history.csv").exists() else []
    assert [row["epoch"] for row in history] == list(range(1, len(history) + 1))
    assert all(np.isfinite(row["val_loss"]) for row in history)
    if history:
        nice.load_encoder(output / "nice.keras")
    if (output / "training.gif").exists():
        assert len(imageio.imread(output / "training.gif", index=None)) == len(history)


def wait_for(path, run):
    while not path.exists() and run.poll() is None:
        time.sleep(0.01)


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(digits, trained, tmp_path):
    for number in (signal.SIGINT, signal.SIGTERM):
        done = len(list(tmp_path.glob("samples/*")))
        run = start(digits, tmp_path)
        wait_for(tmp_path / "samples" / f"epoch_{done + 1:03}.png", run)
        run.send_signal(number)
        _, error = run.communicate(timeout=180)
        if run.returncode:  # else it was done before the signal came
            assert run.returncode == 128 + number
            assert error.count("\n") == 1 and "again to go on" in error
            check_whole(tmp_path)
            assert len(nice.read_history(tmp_path)) < 3
    if not (tmp_path / "training.gif").exists():
        assert train(digits, tmp_path) == 0
    # the same machine, backend and seed: the same digits
    assert nice.read_history(tmp_path) == nice.read_history(trained)


def test_kill_at_any_moment(digits, tmp_path):
    rng = np.random.default_rng(0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    epochs = 3 + 2 * KILLS
    assert train(digits, whole, epochs=epochs) == 0
    for kill in range(KILLS):
        run = start(digits, killed, epochs=epochs)
        files = len(list(killed.glob("samples/*")))
        while len(list(killed.glob("samples/*"))) <= files and run.poll() is None:
            time.sleep(0.001)  # until it has loaded, trained an epoch and begins to save
        if kill % 4:  # three in four while a file is being written
            while not list(killed.glob("**/partial-*")) and run.poll() is None:
                pass
            time.sleep(rng.uniform(0, 0.02))
        else:
            time.sleep(rng.uniform(0, 0.5))
        run.kill()
        run.communicate()
        check_whole(killed)
    if not (killed / "training.gif").exists():
        assert train(digits, killed, epochs=epochs) == 0
    assert nice.read_history(killed) == nice.read_history(whole)
    assert not list(killed.glob("**/partial-*"))


def test_a_full_disk(digits, tmp_path):
    limit = 400_000  # bytes a file: the model fits, the backup with the optimiser does not

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    run = start(digits, tmp_path, preexec_fn=fill)
    _, error = run.communicate(timeout=180)
    assert run.returncode == 1
    assert error.count("\n") == 1 and "cannot write" in error
    assert not list(tmp_path.glob("**/partial-*"))
    check_whole(tmp_path)
    assert train(digits, tmp_path) == 0


def test_a_second_run_in_the_same_folder(digits, tmp_path, refuse):
    lock = nice.claim(tmp_path)  # what a run holds on to
    arguments = ["--data", digits, "--output", tmp_path, "--fresh"]
    refuse(nice.main, arguments, "in use by another run")
    lock.close()
    run = start(digits, tmp_path, epochs=200)
    wait_for(tmp_path / "settings.json", run)
    refuse(nice.main, arguments, "in use by another run")
    run.kill()
    run.communicate()
    nice.claim(tmp_path).close()  # the system dropped the lock
