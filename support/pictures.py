"""Pictures: grids of images, labelled or moving, and plots; as .png and .gif files."""

import imageio.v3 as imageio
import numpy as np

from support import files


def save(path, picture):
    """Write a picture, whole: an array of pixels, a list of them (.gif), or a figure."""

    options = {"duration": 200, "loop": 0} if isinstance(picture, list) else {}
    if hasattr(picture, "savefig"):  # matplotlib's
        files.replace(path, lambda partial: picture.savefig(partial, dpi=100))
    else:
        files.replace(path, lambda partial: imageio.imwrite(partial, picture, **options))


def grid(images, rows, columns, zoom=1):
    """Tile images in grey levels, (rows * columns, height, width) or (..., channels).

    They are clipped to 0...255 and rounded; what is not a number is black. A pixel is drawn
    `zoom` pixels wide.
    """
    pixels = np.clip(np.nan_to_num(images), 0, 255).round().astype("uint8")
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    height, width, *channels = pixels.shape[1:]
    pixels = pixels.reshape(rows, columns, height, width, *channels).swapaxes(1, 2)
    picture = pixels.reshape(rows * height, columns * width, *channels)
    return picture[..., 0] if channels == [1] else picture


def sheet(images, row_names=(), column_names=(), zoom=2):
    """Draw images (rows, columns, *image_shape) as a grid, with names of its rows and columns."""
    rows, columns, _, width = images.shape[:4]
    if column_names:  # give the names room
        zoom = max(zoom, -(-7 * max(map(len, column_names)) // width))
    picture = grid(np.concatenate(images), rows, columns, zoom)
    left, above = 8 * max(map(len, row_names), default=-2) + 16, 24 * bool(column_names)
    if not left and not above:
        return picture
    high, wide = picture.shape[0] + above, picture.shape[1] + left
    figure, axes = plot(wide / 100, high / 100, layout="none")
    axes.set_position((left / wide, 0, 1 - left / wide, 1 - above / high))
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, aspect="auto", extent=(0, columns, rows, 0))
    axes.set_yticks(np.arange(len(row_names)) + 0.5, row_names)
    axes.set_xticks(np.arange(len(column_names)) + 0.5, column_names)
    axes.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure


def plot(width=6.5, height=3.8, rows=1, columns=1, layout="constrained"):
    """A matplotlib figure, which needs no window, and its axes, one or an array of them."""
    from matplotlib.figure import Figure  # here, as it takes half a second

    figure = Figure(figsize=(width, height), layout=layout)
    return figure, figure.subplots(rows, columns)


def curves(history):
    """Plot a training run's losses, epoch by epoch."""
    figure, axes = plot()
    for name, label in (("loss", "training"), ("val_loss", "validation")):
        axes.plot(range(1, len(history) + 1), [row[name] for row in history], ".-", label=label)
    axes.set(xlabel="epoch", ylabel="-log q(x) (nats per image)")
    axes.legend()
    return figure
