"""Runs that are stopped, killed, or run out of room, most of them in processes of their own.

NICE_KILLS sets how often `kill -9` is tried.
"""

import contextlib
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as imageio
import keras
import numpy as np
import pytest
from conftest import SMALL, train

import nice
from support import runs
from support.history import read_history

KILLS = int(os.environ.get("NICE_KILLS", 2))
SCRIPT = Path(nice.__file__)

WITHOUT_SIGNALS = pytest.mark.skipif(sys.platform == "win32", reason="no signal can be sent there")


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
    history = read_history(output) if (output / "history.csv").exists() else []
    assert [row["epoch"] for row in history] == list(range(1, len(history) + 1))
    assert all(np.isfinite(row["val_loss"]) for row in history)
    if history:
        nice.load_encoder(output / "nice.keras")
    if (output / "training.gif").exists():
        assert len(imageio.imread(output / "training.gif", index=None)) == len(history)


def wait_for(path, run):
    while not path.exists() and run.poll() is None:
        time.sleep(0.01)
    assert path.exists(), run.communicate()


def weights(output):
    return nice.load_encoder(output / "nice.keras").get_weights()


@WITHOUT_SIGNALS
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(digits, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    epochs = 12  # enough that a signal in the first ones comes before the end
    assert train(digits, whole, epochs=epochs) == 0
    for signum in (signal.SIGINT, signal.SIGTERM):
        done = len(list(stopped.glob("samples/epoch_*")))
        run = start(digits, stopped, epochs=epochs)
        wait_for(stopped / "samples" / f"epoch_{done + 1:03}.png", run)
        run.send_signal(signum)
        _, error = run.communicate(timeout=180)
        assert run.returncode == 128 + signum
        assert error.startswith("nice.py: stopped: ") and "again to go on" in error
        assert error.count("\n") == 1
        check_whole(stopped)
        assert not (stopped / "training.gif").exists()
    assert train(digits, stopped, epochs=epochs) == 0
    # the same machine, backend and seed: the same digits
    assert read_history(stopped) == read_history(whole)
    for a, b in zip(weights(stopped), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)


@WITHOUT_SIGNALS
@pytest.mark.parametrize("batch_size", [10, 1000])
def test_a_run_in_half_precision_goes_on(batch_size, digits, tmp_path, monkeypatch, capsys):
    """Keras then skips the steps that overflow, some at first, and does not count them.

    What a run starts from is found once.
    """
    started, start_from_data = [], nice.start_from_data
    monkeypatch.setattr(
        nice, "start_from_data", lambda *args: started.append(args) or start_from_data(*args)
    )
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with monkeypatch.context() as patch:
            patch.setattr("nice.fit_codes", lambda *arguments: os.kill(os.getpid(), signal.SIGTERM))
            options = "--batch-size", batch_size, "--recipe", "paper"
            assert train(digits, tmp_path, *options, epochs=2) == 128 + signal.SIGTERM
        assert train(digits, tmp_path, *options, epochs=2) == 0
    finally:
        keras.config.set_dtype_policy(policy)
    assert "going on after epoch 2" in capsys.readouterr().out and len(started) == 1
    assert [row["epoch"] for row in read_history(tmp_path)] == [1, 2]


@WITHOUT_SIGNALS
def test_a_run_stopped_at_its_very_end_still_finishes(digits, tmp_path, monkeypatch):
    """After the last epoch, with or without the density fitted to the codes: the same model."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(digits, whole) == 0
    for name in ("fit_codes", "history.RunKeeper.finish"):
        with monkeypatch.context() as patch:
            patch.setattr(f"nice.{name}", lambda *arguments: os.kill(os.getpid(), signal.SIGTERM))
            assert train(digits, stopped) == 128 + signal.SIGTERM
    assert train(digits, stopped) == 0
    for a, b in zip(weights(stopped), weights(whole), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_file_is_written_waits_and_is_not_lost(signum, tmp_path):
    path = tmp_path / "file"

    def write(partial):
        with contextlib.suppress(KeyboardInterrupt):  # as h5py does, between Python and C
            signal.raise_signal(signum)
        partial.write_text("whole")

    with runs.on_signals(runs.stop), pytest.raises(KeyboardInterrupt):
        runs.replace(path, write)
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_a_signal_that_is_ignored_stays_so():
    """A shell starts what it puts in the background so: Ctrl-C is for what is in front."""
    received, before = [], signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with runs.on_signals(lambda signum, frame: received.append(signum)):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert received == [signal.SIGTERM]


def test_kill_at_any_moment(digits, tmp_path):
    rng = np.random.default_rng(0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    epochs = 3 + 2 * KILLS
    assert train(digits, whole, epochs=epochs) == 0
    hits = 0
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
        hits += run.returncode != 0
        check_whole(killed)
    assert hits
    if not (killed / "training.gif").exists():
        assert train(digits, killed, epochs=epochs) == 0
    assert read_history(killed) == read_history(whole)
    assert not list(killed.glob("**/partial-*"))


def test_what_a_kill_left_half_written_is_removed(trained, digits, tmp_path):
    output = shutil.copytree(trained, tmp_path / "output")
    (output / "training.gif").unlink()
    left = [output / "partial-nice.keras", output / "samples" / "partial-epoch_002.png"]
    for path in left:
        path.write_text("half")
    assert train(digits, output, "--fresh", epochs=1) == 0
    assert not list(output.glob("**/partial-*"))
    check_whole(output)


def test_a_full_disk(digits, tmp_path):
    resource = pytest.importorskip("resource")
    limit = 400_000  # bytes a file: the model fits, the backup with the optimiser does not

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    run = start(digits, tmp_path, preexec_fn=fill)
    _, error = run.communicate(timeout=180)
    assert run.returncode == 1
    assert error.startswith(f"nice.py: cannot write to {tmp_path}: ") and error.count("\n") == 1
    assert "make room" in error and "again to go on" in error
    assert (tmp_path / "nice.keras").exists() and not (tmp_path / "backup.keras").exists()
    assert not list(tmp_path.glob("**/partial-*"))
    check_whole(tmp_path)
    assert train(digits, tmp_path, epochs=3) == 0


def test_a_second_run_in_the_same_folder(digits, tmp_path, refuse):
    arguments = ["--data", digits, "--output", tmp_path, *SMALL, "--epochs", 200, "--fresh"]
    run = start(digits, tmp_path, epochs=200)
    try:
        wait_for(tmp_path / "samples" / "epoch_001.png", run)
        before = (tmp_path / "settings.json").read_bytes()
        refuse(nice.main, arguments, tmp_path, "in use by another run")
        refuse(nice.main, arguments[:-1], "in use by another run")
        assert (tmp_path / "settings.json").read_bytes() == before
        assert run.poll() is None
    finally:
        run.kill()
        run.communicate()
    with runs.folder(tmp_path, {}, fresh=True):
        pass  # the system dropped the lock


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_backup_is_refused(damage, trained, digits, tmp_path, refuse):
    """Whatever is wrong with it, and without touching what else is there."""
    output = shutil.copytree(trained, tmp_path / "output")
    (output / "training.gif").unlink()
    content = (output / "nice.keras").read_bytes()
    middle = len(content) // 2
    content = {
        "cut": content[:-100],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "empty": b"",
        "other": content,  # a whole file, but of a model without its optimiser
    }[damage]
    (output / "backup.keras").write_bytes(content)
    before = {path: path.read_bytes() for path in output.glob("**/*.[kcp]*")}
    again = ["--data", digits, "--output", output, "--epochs", "3", *SMALL]
    refuse(nice.main, again, output / "backup.keras", "is damaged", "use --fresh")
    assert {path: path.read_bytes() for path in output.glob("**/*.[kcp]*")} == before


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """And its folder, which holds the name, after: else a power cut could leave it empty."""
    path, partial = tmp_path / "file.txt", tmp_path / "partial-file.txt"
    path.write_text("old")
    events, sync, rename = [], os.fsync, os.replace

    def fsync(descriptor):
        inode = os.fstat(descriptor).st_ino
        names = {file.stat().st_ino: file for file in (tmp_path, *tmp_path.iterdir())}
        events.append(("flush", names[inode]))
        sync(descriptor)

    def replace(source, target):
        events.append(("rename", source, target))
        assert path.read_text() == "old" and source.read_text() == "new"
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    runs.replace(path, lambda partial: partial.write_text("new"))
    folder = [("flush", tmp_path)] if os.name == "posix" else []
    assert events == [("flush", partial), ("rename", partial, path), *folder]
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_system_that_cannot_flush_folders_is_no_reason_to_stop(tmp_path, monkeypatch):
    path, sync = tmp_path / "file.txt", os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    runs.replace(path, lambda partial: partial.write_text("whole"))
    assert path.read_text() == "whole"


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_old_file(step, tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(*_):
        raise OSError(step)

    def write(partial):
        partial.write_text("half")
        if step == "write":
            fail()

    if step != "write":
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match=step):
        runs.replace(path, write)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
