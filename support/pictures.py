"""Pictures: grids of images, labelled or moving, and plots; as .png and .gif files."""

from support import files

import dataclasses
import math

import imageio.v3 as imageio
import numpy as np

GRID = 15  # rows and columns of a grid of draws, as in the article


@dataclasses.dataclass
class Sheet:
    """Images (rows, columns, *image_shape), and names of rows and columns, if any."""

    images: np.ndarray
    row_names: list = ()
    column_names: list = ()


def save(path, picture):
    """Write a picture whole: an array of pixels, a list of them (.gif), or a figure."""
    if hasattr(picture, "savefig"):  # matplotlib's
        files.write_whole(path, lambda partial: picture.savefig(partial, dpi=100))
        return
    options = {}
    if isinstance(picture, list):
        options = {"duration": 200, "loop": 0}  # milliseconds a frame; for ever
    files.write_whole(
        path, lambda partial: imageio.imwrite(partial, picture, **options)
    )


def grid(images, rows, columns, zoom=1):
    """Tile images in grey levels, (rows * columns, height, width) or (..., channels).

    They are clipped to 0...255 and rounded; what is not a number is black. A pixel is
    drawn `zoom` pixels wide.
    """
    pixels = np.clip(np.nan_to_num(images), 0, 255).round().astype("uint8")
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    height, width, *channels = pixels.shape[1:]
    pixels = pixels.reshape(rows, columns, height, width, *channels)
    pixels = pixels.swapaxes(1, 2)  # rows, height, columns, width
    picture = pixels.reshape(rows * height, columns * width, *channels)
    if channels == [1]:
        return picture[..., 0]
    return picture


def draw(sheet, zoom=2):
    """Draw a sheet as a grid: pixels, or a figure if its rows or columns have names."""
    rows, columns, _, width = sheet.images.shape[:4]
    for name in sheet.column_names:  # a letter is some 7 pixels wide
        zoom = max(zoom, math.ceil(7 * len(name) / width))
    picture = grid(np.concatenate(sheet.images), rows, columns, zoom)
    if not sheet.row_names and not sheet.column_names:
        return picture
    left = 0
    if sheet.row_names:
        left = 16 + 8 * max(len(name) for name in sheet.row_names)
    above = 24 if sheet.column_names else 0
    height = picture.shape[0] + above
    width = picture.shape[1] + left
    figure, axes = plot(width / 100, height / 100, layout="none")
    axes.set_position((left / width, 0, 1 - left / width, 1 - above / height))
    extent = (0, columns, rows, 0)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, aspect="auto", extent=extent)
    axes.set_yticks(np.arange(len(sheet.row_names)) + 0.5, sheet.row_names)
    axes.set_xticks(np.arange(len(sheet.column_names)) + 0.5, sheet.column_names)
    axes.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure


def animate(sheet):
    """The columns of a sheet one after another, there and back: a list of frames."""
    frames = []
    for column in sheet.images.swapaxes(0, 1):
        frames.append(grid(column, len(column), 1, zoom=2))
    return frames + frames[-2:0:-1]


def plot(width=6.5, height=3.8, rows=1, columns=1, layout="constrained"):
    """A matplotlib figure, and its axes: one, or an array of them."""
    from matplotlib.figure import Figure  # here, as it takes half a second

    figure = Figure(figsize=(width, height), layout=layout)
    return figure, figure.subplots(rows, columns)


def curves(history):
    """Plot a training run's losses, epoch by epoch."""
    figure, axes = plot()
    epochs = range(1, len(history) + 1)
    axes.plot(epochs, [row["loss"] for row in history], ".-", label="training")
    axes.plot(epochs, [row["val_loss"] for row in history], ".-", label="validation")
    axes.set(xlabel="epoch", ylabel="-log q(x) (nats per image)")
    axes.legend()
    return figure
