"""Pictures: grids of images, labelled or moving, and plots; as .png and .gif files."""

from support import files

import dataclasses

import imageio.v3 as imageio
import numpy as np

GRID = 15  # rows and columns of a grid of draws, as in the article
TEMPERATURE = 0.8  # of the draws that pictures show: the article's choice
TILE = 0.62  # inches from one image of a sheet to the next


@dataclasses.dataclass
class Sheet:
    """Rows of images, and what is written beside them.

    Args:
        images: array (rows, columns, *image_shape), in grey levels.
        row_names: a text for each row, on its left.
        column_names: a text for each column, above the first row.
        headings: texts by the index of the row that each stands above.
        notes: for each row a text below each of its images.
        framed: indices of columns whose images have a frame.
    """

    images: np.ndarray
    row_names: list = ()
    column_names: list = ()
    headings: dict = dataclasses.field(default_factory=dict)
    notes: list = ()
    framed: tuple = ()


def save(path, picture):
    """Write a picture whole: an array of pixels, a list of them (.gif), or a figure."""
    options = {}
    if isinstance(picture, list):
        options = {"duration": 200, "loop": 0}  # milliseconds a frame; for ever
    if hasattr(picture, "add_subplot"):  # a figure
        picture = figure_pixels(picture)
        options = {"bits": 8}  # 256 colours: a third of the size
    files.write_whole(
        path, lambda partial: imageio.imwrite(partial, picture, **options)
    )


def figure_pixels(figure):
    """The pixels of a matplotlib figure: uint8 (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, as it is slow

    figure.set_dpi(200)  # twice as fine as its layout, so that small text is sharp
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def in_rows(images, columns):
    """Images (n, *image_shape), n columns to a row: (rows, columns, *image_shape)."""
    return images.reshape(-1, columns, *images.shape[1:])


def grid(images, zoom=1):
    """Tile images in grey levels, (rows, columns, height, width) or (..., channels).

    They are clipped to 0...255 and rounded; what is not a number is black. A pixel is
    drawn `zoom` pixels wide.
    """
    pixels = np.clip(np.nan_to_num(images), 0, 255).round().astype("uint8")
    pixels = pixels.repeat(zoom, axis=2).repeat(zoom, axis=3)
    rows, columns, height, width, *channels = pixels.shape
    pixels = pixels.swapaxes(1, 2)  # rows, height, columns, width
    picture = pixels.reshape(rows * height, columns * width, *channels)
    if channels == [1]:
        return picture[..., 0]
    return picture


def show(axes, images):
    """Show a grid of images on matplotlib axes, without ticks."""
    axes.imshow(grid(images), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def titled(grids):
    """Draw grids under a title each, two side by side: a figure.

    Args:
        grids: a dict of titles and images (rows, columns, *image_shape). Two that stand
            side by side have as many rows.
    """
    columns = min(2, len(grids))
    heights = [len(images) for images in grids.values()][::columns]
    height = 4.8 * sum(heights) / max(heights)
    figure, all_axes = plot(
        4.5 * columns, height, len(heights), columns, height_ratios=heights
    )
    for axes, (title, images) in zip(np.ravel(all_axes), grids.items(), strict=True):
        show(axes, images)
        axes.set_title(title)
    return figure


def draw(sheet):
    """Draw a sheet: a figure, each row of images on axes of its own."""
    rows, columns, height, width = sheet.images.shape[:4]
    extra = 0.25 * (len(sheet.headings) + len(sheet.notes)) + 0.5
    size = (TILE * columns + 0.8, TILE * rows * height / width + extra)
    figure, all_axes = plot(*size, rows=rows)
    centres = width * (np.arange(columns) + 0.5) - 0.5
    for row, axes in enumerate(np.ravel(all_axes)):
        show(axes, sheet.images[row : row + 1])
        axes.tick_params(length=0, labelsize=9)
        if len(sheet.row_names):
            axes.set_ylabel(
                sheet.row_names[row], rotation=0, ha="right", va="center", fontsize=9
            )
        if row == 0 and len(sheet.column_names):
            above = axes.secondary_xaxis("top")
            above.set_xticks(centres, sheet.column_names, fontsize=9)
            above.tick_params(length=0)
        if len(sheet.notes):
            axes.set_xticks(centres, sheet.notes[row])
        if row in sheet.headings:
            axes.set_title(sheet.headings[row], fontsize=10)
        for column in sheet.framed:
            axes.add_patch(frame(column, width, height))
    return figure


def frame(column, width, height):
    """A coloured frame around the image in a column of a row."""
    from matplotlib.patches import Rectangle  # here, as it takes half a second

    corner = (column * width - 0.5, -0.5)
    return Rectangle(corner, width, height, fill=False, color="#e69f00", linewidth=3)


def minus(number):
    """A number's text with a minus sign, where it has a hyphen."""
    return number.replace("-", "−")


def animate(sheet):
    """The columns of a sheet one after another, there and back: a list of frames."""
    frames = []
    for column in range(sheet.images.shape[1]):
        frames.append(grid(sheet.images[:, column : column + 1], zoom=2))
    return frames + frames[-2:0:-1]


def plot(width=6.5, height=3.8, rows=1, columns=1, **options):
    """A matplotlib figure, and its axes: one, or an array of them."""
    from matplotlib.figure import Figure  # here, as it takes half a second

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def curves(history):
    """Plot a training run's losses, epoch by epoch."""
    figure, axes = plot()
    epochs = range(1, len(history) + 1)
    axes.plot(epochs, [row["loss"] for row in history], ".-", label="training")
    axes.plot(epochs, [row["val_loss"] for row in history], ".-", label="validation")
    axes.set(xlabel="epoch", ylabel="-log q(x) (nats per image)")
    axes.legend()
    return figure
