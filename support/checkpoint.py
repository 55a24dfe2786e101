"""What a training run keeps as it goes: its best model, grids, losses, and a backup."""

from support import files, pictures
from support.errors import UserError
from support.pictures import GRID, TEMPERATURE

import math

import imageio.v3 as imageio
import keras


class Checkpoint(keras.callbacks.Callback):
    """Save after each epoch, in a folder, all that a killed run needs to go on.

    That is `nice.keras`, if the epoch is the best so far by its validation loss; a grid
    of draws from the prior; `history.json`; and last `backup.0007.keras`, the model
    with its optimiser. The number is the epoch's, so weights and epoch always belong
    together. Keras's own callbacks write in place. Here each file is replaced whole.

    Args:
        output: the folder.
        twin: a model that shares the weights in training, without an optimiser. It is
            saved as `nice.keras`.
    """

    def __init__(self, output, twin):
        super().__init__()
        self.output = output
        self.twin = twin
        self.history = []

    def restore(self, model):
        """Load the newest backup into a compiled model, and the history up to it.

        Returns:
            How many epochs are finished.
        """
        backups = self.backups()
        if not backups:
            return 0
        newest = backups[-1]
        try:
            files.check_whole(newest)
            _, epochs, _ = newest.name.split(".")
            done = int(epochs)
            # An optimiser has nothing to load into until it is built.
            model.optimizer.build(model.trainable_variables)
            model.load_weights(newest)
            history = files.read_json(self.output / "history.json")
        except Exception as error:  # a damaged file fails in many ways
            raise UserError(f"{newest} is damaged ({error}); use --fresh") from None
        self.history = history[:done]
        print(f"going on after epoch {done}")
        return done

    def on_epoch_end(self, epoch, logs):
        number = f"{epoch + 1:04}"
        row = {"epoch": epoch + 1, **logs}
        self.history.append(row)
        if best_epoch(self.history) is row:
            files.write_whole(self.output / "nice.keras", self.twin.save)
        files.write_json(self.output / "history.json", self.history)
        if not math.isfinite(logs["loss"]):
            self.model.stop_training = True
            return
        images = self.model.sample(GRID * GRID, TEMPERATURE)
        grid = pictures.grid(pictures.in_rows(images, GRID))
        pictures.save(self.output / "samples" / f"epoch_{number}.png", grid)
        older = self.backups()
        files.write_whole(self.output / f"backup.{number}.keras", self.model.save)
        for path in older:
            path.unlink()

    def backups(self):
        return sorted(self.output.glob("backup.*.keras"))


def best_epoch(history):
    """The row of the epoch with the lowest validation loss; None if none is finite."""
    finite = [row for row in history if math.isfinite(row["val_loss"])]
    return min(finite, key=lambda row: row["val_loss"], default=None)


def finish(output, history):
    """Leave curves and an animation, delete backups: the run counts as finished."""
    pictures.save(output / "training.png", pictures.curves(history))
    grids = sorted(output.glob("samples/epoch_*.png"))
    if grids:  # none, if the first epoch diverged
        frames = [imageio.imread(path) for path in grids]
        pictures.save(output / "training.gif", frames)
    settings = files.read_settings(output)
    files.write_json(output / "settings.json", {**settings, "finished": True})
    for path in output.glob("backup.*.keras"):
        path.unlink()
