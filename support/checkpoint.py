"""What a training run keeps as it goes: its best model, grids, losses, and a backup."""

import math

import imageio.v3 as imageio
import keras

from support import files, pictures


class Checkpoint(keras.callbacks.Callback):
    """Start each epoch of the batches, and keep what the epoch leaves.

    That is `nice.keras` if it is the best so far, a grid of new images in `samples/`, a row of
    `history.csv`, and last `backup.0007.keras`, the model with its optimiser's state; the number
    pairs weights and epoch. All are replaced whole, where Keras's own callbacks write in place.

    Args:
        output: the run's folder.
        batches: the `Batches` that train.
        draw: a function that makes 225 images.
        monitor: the loss that is lowest in the best epoch.
    """

    def __init__(self, output, batches, draw, monitor):
        super().__init__()
        self.output, self.batches, self.monitor, self.draw = output, batches, monitor, draw
        self.history = []

    def restore(self, encoder):
        """Load the newest backup into a compiled encoder; return the epochs it has finished."""
        backups = self.backups()
        if not backups:
            return 0
        encoder.optimizer.build(encoder.trainable_variables)
        try:
            done = int(backups[-1].suffixes[0][1:])
            encoder.load_weights(backups[-1])
            self.history = files.read_history(self.output / "history.csv")[:done]
            if len(self.history) < done:
                raise ValueError("history.csv has fewer epochs")
        except Exception as error:  # h5py and Keras have many
            raise ValueError(f"{backups[-1]} is damaged ({error}); use --fresh") from None
        print(f"going on after epoch {done}")
        return done

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.start(epoch)

    def on_epoch_end(self, epoch, logs):
        self.history.append({"epoch": epoch + 1, **logs})
        if self.best() is self.history[-1]:
            # without the optimiser, which is twice as large, and what was fitted to older codes
            best = keras.Model(self.model.input, self.model.get_layer("prior").output)
            files.replace(self.output / "nice.keras", best.save)
        grid, name = pictures.grid(self.draw(), 15, 15), f"samples/epoch_{epoch + 1:04}.png"
        files.replace(self.output / name, lambda path: pictures.write(path, grid))
        history = self.output / "history.csv"
        files.replace(history, lambda path: files.write_history(path, self.history))
        if not math.isfinite(logs["loss"]):
            self.model.stop_training = True
            return
        old = self.backups()
        files.replace(self.output / f"backup.{epoch + 1:04}.keras", self.model.save)
        for path in old:
            path.unlink()

    def backups(self):
        return sorted(self.output.glob("backup.*.keras"))

    def best(self):
        """The best epoch's row of the history, or None if no loss is finite."""
        finite = [row for row in self.history if math.isfinite(row[self.monitor])]
        return min(finite, key=lambda row: row[self.monitor], default=None)

    def finish(self):
        """Leave curves and animation: the run counts as finished, and is not gone on with."""
        grids = sorted(self.output.glob("samples/epoch_*.png"))
        made = {"training.png": pictures.curves(self.history)}
        made["training.gif"] = [imageio.imread(path) for path in grids]
        for name, picture in made.items():
            files.replace(self.output / name, lambda path, made=picture: pictures.write(path, made))
        files.write_settings(self.output, files.read_settings(self.output) | {"finished": True})
        for path in self.backups():
            path.unlink()
