"""Pictures: grids of images, labelled or moving, and plots; as .png and .gif files.

matplotlib is imported where it draws, for it takes half a second.
"""

import dataclasses

import imageio.v3 as imageio
import numpy as np


@dataclasses.dataclass
class Sheet:
    """Images in rows and columns, with labels where a reader needs them.

    Args:
        images: array of shape (rows, columns, *image_shape), in grey levels.
        row_labels, column_labels: these share the sheet's height and width evenly.
        zoom: how many pixels wide a pixel is drawn.
    """

    images: np.ndarray
    row_labels: list = ()
    column_labels: list = ()
    zoom: int = 2

    def picture(self):
        """One uint8 picture of all images."""
        return self.draw(self.images, self.column_labels)

    def frames(self):
        """The columns as an animation, there and back."""
        frames = [self.draw(column[:, None], ()) for column in self.images.swapaxes(0, 1)]
        return frames + frames[-2:0:-1]

    def draw(self, images, column_labels):
        picture = grid(np.concatenate(images), *images.shape[:2], self.zoom)
        if not self.row_labels and not column_labels:
            return picture
        return labelled(picture, self.row_labels, column_labels)


def write_png(path, picture):
    imageio.imwrite(path, picture, extension=".png")


def write_gif(path, frames, duration):
    imageio.imwrite(path, frames, extension=".gif", duration=duration, loop=0)


def animate(path, pictures, duration):
    """Join .png files into one .gif, each shown for `duration` milliseconds."""
    write_gif(path, [imageio.imread(picture) for picture in pictures], duration)


def to_pixels(images):
    """Round images in grey levels, clipped to 0...255, to uint8; what is not a number is black."""
    return np.clip(np.nan_to_num(images), 0, 255).round().astype("uint8")


def grid(images, rows, columns, zoom=1):
    """Tile rows * columns images in grey levels into one uint8 picture.

    Args:
        images: array of shape (rows * columns, height, width) or (..., channels).
        zoom: how many pixels wide a pixel is drawn.
    """
    pixels = to_pixels(images).repeat(zoom, axis=1).repeat(zoom, axis=2)
    height, width, *channels = pixels.shape[1:]
    pixels = pixels.reshape(rows, columns, height, width, *channels).swapaxes(1, 2)
    picture = pixels.reshape(rows * height, columns * width, *channels)
    return picture[..., 0] if channels == [1] else picture


def labelled(picture, rows=(), columns=()):
    """Write labels to the left of a picture's rows and above its columns: a uint8 RGB picture.

    The labels share the height and the width of the picture evenly.
    """
    left = 12 + 8 * max((len(label) for label in rows), default=-1)
    above = 24 if columns else 0
    height, width = picture.shape[:2]

    def draw(figure):
        size = {"fontsize": 9, "family": "monospace"}
        figure.figimage(picture, left, 0, cmap="gray", vmin=0, vmax=255)
        for i, label in enumerate(rows):
            y = height * (1 - (i + 0.5) / len(rows))
            figure.text(
                (left - 8) / (left + width),
                y / (above + height),
                label,
                ha="right",
                va="center",
                **size,
            )
        for i, label in enumerate(columns):
            x = left + width * (i + 0.5) / len(columns)
            figure.text(
                x / (left + width),
                1 - 12 / (above + height),
                label,
                ha="center",
                va="center",
                **size,
            )

    return render(draw, (left + width) / 100, (above + height) / 100)


def plot(draw, width=6.5, height=3.8, rows=1, columns=1):
    """Render what `draw` puts on matplotlib's axes (one or an array): a uint8 RGB picture."""

    def on_axes(figure):
        figure.set_layout_engine("constrained")
        draw(figure.subplots(rows, columns))

    return render(on_axes, width, height)


def render(draw, width, height):
    """Render what `draw` puts on a matplotlib figure, 100 pixels an inch: a uint8 RGB picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100)
    draw(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def curves(path, history):
    """Plot a training run's loss, and bits per dimension where it has them, epoch by epoch."""
    names = [name for name in ("loss", "bits_per_dim") if name in history[0]]
    units = {"loss": "loss (nats per image)", "bits_per_dim": "bits per dimension"}

    def draw(axes):
        for name, ax in zip(names, np.atleast_1d(axes), strict=True):
            for prefix, label in (("", "training"), ("val_", "validation")):
                values = [(row["epoch"], row[prefix + name]) for row in history]
                ax.plot(*zip(*values, strict=True), marker=".", label=label)
            ax.set(xlabel="epoch", ylabel=units[name])
            ax.grid(alpha=0.3)
            ax.legend()

    write_png(path, plot(draw, width=5.5 * len(names), columns=len(names)))
