"""What a training run keeps as it goes: its best model, grids, losses, and a backup."""

import json
import math

import imageio.v3 as imageio
import keras

from support import files, pictures


class Checkpoint(keras.callbacks.Callback):
    """Set `batches.epoch`, and save after each epoch, in the folder `output`, what it leaves.

    That is `nice.keras` if it is the best so far (the lowest `monitor`), a grid of what `draw`
    makes, `history.json`, and last `backup.0007.keras`, the model with its optimiser's state; the
    number pairs weights and epoch. All are replaced whole, Keras's own callbacks write in place.
    """

    def __init__(self, output, batches, draw, monitor):
        super().__init__()
        self.output, self.batches, self.monitor, self.draw = output, batches, monitor, draw
        self.history = []

    def restore(self, encoder):
        """Load the newest backup into a compiled encoder; return the epochs it has finished."""
        if not (backups := self.backups()):
            return 0
        encoder.optimizer.build(encoder.trainable_variables)
        try:
            files.check_whole(backups[-1])
            done = int(backups[-1].suffixes[0][1:])
            encoder.load_weights(backups[-1])
            self.history = json.loads((self.output / "history.json").read_text())[:done]
        except Exception as error:  # h5py and Keras have many
            raise ValueError(f"{backups[-1]} is damaged ({error}); use --fresh") from None
        print(f"going on after epoch {done}")
        return done

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.epoch = epoch

    def on_epoch_end(self, epoch, logs):
        self.history.append({"epoch": epoch + 1, **logs})
        if self.best() is self.history[-1]:
            # without the optimiser, which is twice as large, and what was fitted to older codes
            best = keras.Model(self.model.input, self.model.get_layer("prior").output)
            files.replace(self.output / "nice.keras", best.save)
        grid = self.output / "samples" / f"epoch_{epoch + 1:04}.png"
        pictures.save(grid, pictures.grid(self.draw(), 15, 15))
        files.write_json(self.output / "history.json", self.history)
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
        pictures.save(self.output / "training.png", pictures.curves(self.history))
        pictures.save(self.output / "training.gif", [imageio.imread(path) for path in grids])
        settings = files.read_settings(self.output) | {"finished": True}
        files.write_json(self.output / "settings.json", settings)
        for path in self.backups():
            path.unlink()
