"""What a training run keeps as it goes: its best model, pictures, losses, and a backup."""

import csv
import math
import sys
import zipfile

import keras
import numpy as np

from support import pictures
from support.errors import first_line
from support.model_files import check_zip
from support.runs import replace


class RunKeeper(keras.callbacks.Callback):
    """Seed each epoch of `fit`, and keep what it leaves: best model, grid, history, backup.

    After each epoch it writes the best model so far (`nice.keras`), a grid of images drawn
    with one fixed seed (`samples/`), a row of `history.csv`, and last the backup with
    the optimiser's state, each replaced whole. `finish` makes `training.gif` of the grids.
    (Keras's ModelCheckpoint, CSVLogger and BackupAndRestore write into the file they replace: a
    kill there would lose the run. Its TerminateOnNaN looks at every batch, and waits for it.)

    Args:
        output: a folder that `runs.folder` has made ready.
        batches: the `Batches` that train.
        draw: a function from a number to as many new images, in grey levels.
        seed: of the run.
        describe: a function from a loss to further columns of the history, a dict.

    Attributes:
        history: a dict for each finished epoch.
    """

    def __init__(self, output, batches, draw, seed, describe):
        super().__init__()
        self.output, self.batches, self.draw = output, batches, draw
        self.seed, self.describe = seed, describe
        self.backup, self.history = output / "backup.keras", []

    def load_backup(self, encoder):
        """Read what an interrupted run left, if it did; return the epochs it had finished."""
        if not self.backup.exists():
            return 0
        encoder.optimizer.build(encoder.trainable_variables)
        try:
            check_zip(self.backup)
            with zipfile.ZipFile(self.backup) as file:
                done = int(file.read("epoch"))
            encoder.load_weights(self.backup)
            history = read_history(self.output)
            if len(history) < done:
                raise ValueError(f"it is of epoch {done}, the history of {len(history)}")
        except Exception as error:  # h5py and Keras have many
            raise ValueError(
                f"{self.backup} is damaged ({first_line(error)}); use --fresh"
            ) from None
        self.history = history[:done]
        print(f"going on after epoch {done}")
        return done

    def on_epoch_begin(self, epoch, logs=None):
        rng = np.random.default_rng([self.seed, epoch])
        self.batches.rows = rng.permutation(np.sort(self.batches.rows))
        noise = self.model.get_layer("noise").seed_generator
        noise.state.assign(rng.integers(2**31, size=2))

    def on_epoch_end(self, epoch, logs):
        row = {"epoch": epoch + 1, **logs}
        for key in ("", "val_"):
            row |= {key + name: x for name, x in self.describe(logs[key + "loss"]).items()}
        self.history.append(row)
        if row is best(self.history):
            # without the optimiser, which would make the file three times as large
            model = keras.Model(self.model.input, self.model.output, name="encoder")
            replace(self.output / "nice.keras", model.save)
        picture = self.output / "samples" / f"epoch_{epoch + 1:03}.png"
        grid = pictures.grid(self.draw(15 * 15), 15, 15)
        replace(picture, lambda path: pictures.write_png(path, grid))
        replace(self.output / "history.csv", lambda path: write_history(path, self.history))
        if math.isfinite(logs["loss"]):
            replace(self.backup, self.save_backup)
        else:
            self.model.stop_training = True

    def save_backup(self, path):
        self.model.save(path)
        with zipfile.ZipFile(path, "a") as file:
            # The optimiser's count of steps would not do: in half precision Keras skips some.
            file.writestr("epoch", str(len(self.history)))

    def finish(self):
        """Leave the curves and the animation, which marks the run as finished."""
        paths = self.output.glob("samples/epoch_*.png")
        paths = sorted(paths, key=lambda path: (len(path.name), path))  # 1000 is after 999
        replace(self.output / "training.png", lambda p: pictures.curves(p, self.history))
        replace(self.output / "training.gif", lambda p: pictures.animate(p, paths, 300))
        self.backup.unlink(missing_ok=True)


def best(history):
    """The epoch with the lowest validation loss, or None if none is finite."""
    finite = [row for row in history if math.isfinite(row["val_loss"])]
    return min(finite, key=lambda row: row["val_loss"], default=None)


def report(history, kind):
    """Print how a run went, with a warning on stderr if it went badly; return the exit status.

    Args:
        kind: "validation" or "test", the images that chose the best epoch.
    """
    causes = "too high a --learning-rate, or no --noise, so that nothing bounds log s"
    chosen, last = best(history), history[-1]
    failed = chosen is None or not math.isfinite(last["loss"])
    if failed:
        loss = last["val_loss"] if math.isfinite(last["loss"]) else last["loss"]
        warn(f"training stopped: the loss became {loss} in epoch {len(history)} ({causes})")
    elif not last["val_loss"] <= chosen["val_loss"] + 0.1 * abs(chosen["val_loss"]):  # or it is NaN
        warn(f"training fell apart after its best epoch ({causes}); the best model is kept")
    if chosen:
        epoch = f"epoch {chosen['epoch']} of {len(history)}"
        print(f"best {kind} loss {chosen['val_loss']:.2f}, {epoch}")
    return int(failed)


def warn(message):
    """Say one line on stderr; the program goes on."""
    print(f"nice.py: {message}", file=sys.stderr)


def write_history(path, history):
    """Write a dict an epoch as a row each."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)


def read_history(output):
    """The rows of `write_history`, from the output folder's history.csv."""
    with open(output / "history.csv", newline="") as file:
        rows = [{key: float(row[key]) for key in row} for row in csv.DictReader(file)]
    return [row | {"epoch": int(row["epoch"])} for row in rows]
