"""Pictures: grids of images, labelled or moving, and plots; as .png and .gif files."""

from support import files

import dataclasses
import math

import imageio.v3 as imageio
import numpy as np

GRID = 15  # rows and columns of a grid of draws, as in the article


# A sheet that has texts beside its images, in pixels.
LINE = 18  # height of a line of text
LETTER = 9  # width of a letter, at most
APART = 3  # between two images
GAP = 14  # between two blocks of rows or columns, more than between two images


@dataclasses.dataclass
class Sheet:
    """Images in rows and columns, and what is drawn beside them.

    Args:
        images: array (rows, columns, *image_shape), in grey levels.
        row_names: a text for each row, on its left.
        column_names: a text for each column, above it.
        row_blocks: pairs (heading, number of rows). Each block of rows stands apart,
            with its heading above it.
        column_blocks: pairs (heading, number of columns), likewise.
        notes: for each row a sequence of texts, one below each of its images.
        framed: indices of columns whose images have a frame.
    """

    images: np.ndarray
    row_names: list = ()
    column_names: list = ()
    row_blocks: list = ()
    column_blocks: list = ()
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
    """Draw a sheet: pixels, or a figure if there is anything beside its images.

    A pixel is drawn `zoom` pixels wide, or wider if a text needs it.
    """
    fields = dataclasses.fields(sheet)
    beside = [getattr(sheet, field.name) for field in fields if field.name != "images"]
    if any(beside):
        return draw_with_texts(sheet, zoom)
    rows, columns = sheet.images.shape[:2]
    return grid(np.concatenate(sheet.images), rows, columns, zoom)


def draw_with_texts(sheet, zoom):
    """Draw a sheet and what is beside its images: a matplotlib figure."""
    # Images are as wide as the texts above and below them.
    rows, columns, height, width, *channels = sheet.images.shape
    texts = list(sheet.column_names)
    for row in sheet.notes:
        texts += row
    for text in texts:
        zoom = max(zoom, math.ceil(LETTER * len(text) / width))
    height *= zoom
    width *= zoom

    # Where rows and columns begin.
    left = APART
    if sheet.row_names:
        left += LETTER * (1 + max(len(name) for name in sheet.row_names))
    headings_above = heading_height(sheet.column_blocks)
    above = APART + headings_above
    if sheet.column_names:
        above += LINE
    row_height = height + APART
    if sheet.notes:
        row_height += LINE
    row_heading = heading_height(sheet.row_blocks)
    tops, bottom = places(above, row_height, rows, sheet.row_blocks, row_heading)
    lefts, right = places(left, width + APART, columns, sheet.column_blocks)

    # The images, on white.
    pixels = np.full((bottom, right, *channels), 255, "uint8")
    for y, row in zip(tops, sheet.images, strict=True):
        for x, image in zip(lefts, row, strict=True):
            tile = grid(image[None], 1, 1, zoom).reshape(height, width, *channels)
            pixels[y : y + height, x : x + width] = tile
    figure, axes = plot(right / 100, bottom / 100, layout="none")
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()
    extent = (0, right, bottom, 0)  # so that positions are pixels, from the top left
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, aspect="auto", extent=extent)

    # What is beside them.
    def write(x, y, text, align="center"):
        axes.text(x, y, text, ha=align, va="center", fontsize=10)

    for y, name in zip(tops, sheet.row_names, strict=False):
        write(left - LETTER, y + height / 2, name, "right")
    for x, name in zip(lefts, sheet.column_names, strict=False):
        write(x + width / 2, headings_above + LINE / 2, name)
    for y, notes in zip(tops, sheet.notes, strict=False):
        for x, note in zip(lefts, notes, strict=True):
            write(x + width / 2, y + height + LINE / 2, note)
    for heading, first, last in block_ends(sheet.column_blocks):
        write((lefts[first] + lefts[last] + width) / 2, LINE / 2, heading)
    for heading, first, _ in block_ends(sheet.row_blocks):
        write((left + right) / 2, tops[first] - APART - LINE / 2, heading)
    for column in sheet.framed:
        for y in tops:
            corner = (lefts[column] - APART / 2, y - APART / 2)
            frame(axes, corner, width + APART, height + APART)
    return figure


def frame(axes, corner, width, height):
    """Draw a coloured frame."""
    from matplotlib.patches import Rectangle  # here, as it takes half a second

    style = {"fill": False, "edgecolor": "#e69f00", "linewidth": 1.5}
    axes.add_patch(Rectangle(corner, width, height, **style))


def heading_height(blocks):
    """The height of the headings of blocks, in pixels: 0 if all are empty."""
    if any(heading for heading, _ in blocks):
        return LINE
    return 0


def places(start, step, count, blocks, heading=0):
    """Where rows or columns begin.

    Args:
        start: pixels before the first.
        step: pixels from one to the next.
        count: how many there are.
        blocks: as in a `Sheet`.
        heading: pixels before each block, for its heading.

    Returns:
        A list of positions in pixels, and the position after the last of them.
    """
    begins = []
    for number, (_, length) in enumerate(blocks or [("", count)]):
        if number > 0:
            start += GAP
        start += heading
        for _ in range(length):
            begins.append(start)
            start += step
    return begins, start


def block_ends(blocks):
    """The heading of each block, and where it begins and ends: indices of rows."""
    ends = []
    first = 0
    for heading, length in blocks:
        ends.append((heading, first, first + length - 1))
        first += length
    return ends


def minus(number):
    """A number's text with a minus sign, where it has a hyphen."""
    return number.replace("-", "−")


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
