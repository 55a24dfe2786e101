"""Grids, labels, animations and curves."""

import imageio.v3 as imageio
import numpy as np
import pytest

from support import pictures
from support.pictures import Sheet


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype="uint8")


@pytest.mark.filterwarnings("error")
def test_pixels_are_rounded_and_clipped_and_what_is_no_number_is_black():
    grey = np.array([0.4, 0.6, 254.6, 255.4, 300, 1e30, np.inf, -1, -np.inf, np.nan])
    pixels = pictures.to_pixels(grey)
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [0, 1, 255, 255, 255, 255, 255, 0, 0, 0]


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_a_grid_has_the_images_in_reading_order(channels):
    images = random_images(6, 5, 4, *channels)
    picture = pictures.grid(images.astype("float32"), 2, 3, zoom=3)
    assert picture.shape == (2 * 5 * 3, 3 * 4 * 3, *(channels if channels != (1,) else ()))
    images = images.reshape(6, 5, 4) if channels == (1,) else images
    for i in range(6):
        y, x = 15 * (i // 3), 12 * (i % 3)
        tile = picture[y : y + 15, x : x + 12]
        np.testing.assert_array_equal(tile, images[i].repeat(3, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize("channels", [(), (3,)])
def test_labels_leave_the_picture_as_it_is(channels):
    for size in (20, 37, 95, 113):  # among them sizes that are no whole number of inches
        picture = random_images(size, size + 1, *channels)
        labelled = pictures.labelled(picture, ["one", "three"], ["a", "b", "c"])
        assert labelled.dtype == np.uint8
        assert labelled.shape == (size + 24, size + 1 + 12 + 8 * 5, 3)
        expected = picture if channels else picture[..., None].repeat(3, axis=2)
        np.testing.assert_allclose(labelled[24:, 52:].astype(int), expected, atol=1)


def test_labels_stand_at_the_middle_of_what_they_name():
    picture = np.full((120, 200), 255, "uint8")
    labelled = pictures.labelled(picture, ["one", "", "three"], ["a", ""])
    dark = labelled.min(axis=2) < 128
    margin = dark[24:, :52]
    rows = np.flatnonzero(margin.any(axis=1))
    upper, lower = rows[rows < 60], rows[rows >= 60]
    assert upper.mean() == pytest.approx(20, abs=3) and lower.mean() == pytest.approx(100, abs=3)
    columns = np.flatnonzero(dark[:24, 52:].any(axis=0))
    assert columns.mean() == pytest.approx(50, abs=3)
    assert not dark[24:, 52:].any()
    assert margin[:60].sum() < margin[60:].sum()  # the first label is the shorter one


def test_a_sheet_without_labels_is_the_grid():
    images = random_images(2, 3, 5, 4)
    np.testing.assert_array_equal(
        Sheet(images).picture(), pictures.grid(images.reshape(6, 5, 4), 2, 3, zoom=2)
    )
    assert Sheet(images, zoom=1).picture().shape == (10, 12)


def test_a_sheets_labels_take_their_room():
    images = random_images(2, 3, 20, 20)
    rows, columns = ["one", "two"], ["a", "b", "c"]
    shapes = {
        (80 + 24, 120 + 36, 3): Sheet(images, rows, columns),
        (80, 120 + 36, 3): Sheet(images, rows),
        (80 + 24, 120 + 4, 3): Sheet(images, column_labels=columns),
    }
    for shape, sheet in shapes.items():
        assert sheet.picture().shape == shape


@pytest.mark.parametrize(
    ("columns", "order"), [(1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3, 2, 1])], ids=str
)
def test_frames_go_there_and_back(columns, order):
    images = random_images(2, columns, 6, 4)
    frames = Sheet(images, column_labels=[str(n) for n in range(columns)]).frames()
    assert len(frames) == len(order)
    for frame, column in zip(frames, order, strict=True):
        np.testing.assert_array_equal(frame, pictures.grid(images[:, column], 2, 1, zoom=2))
    with_rows = Sheet(images, row_labels=["one", "two"]).frames()
    assert with_rows[0].shape == (24, 8 + 12 + 24, 3)


def test_files_are_what_they_are_whatever_they_are_called(tmp_path):
    """They are written under another name first."""
    picture = random_images(6, 4, 3)
    pictures.write_png(tmp_path / "a", picture)
    assert (tmp_path / "a").read_bytes().startswith(b"\x89PNG")
    np.testing.assert_array_equal(imageio.imread(tmp_path / "a"), picture)
    frames = [np.full((8, 6), grey, "uint8") for grey in (0, 100, 200)]
    pictures.write_gif(tmp_path / "b", frames, duration=150)
    assert (tmp_path / "b").read_bytes().startswith(b"GIF89a")
    assert imageio.immeta(tmp_path / "b")["duration"] == 150
    assert imageio.immeta(tmp_path / "b")["loop"] == 0  # for ever
    assert len(imageio.imread(tmp_path / "b", index=None)) == 3


def test_pictures_are_joined_in_their_order(tmp_path):
    paths = [tmp_path / f"{grey}.png" for grey in (200, 0, 100)]
    for path in paths:
        pictures.write_png(path, np.full((8, 6), int(path.stem), "uint8"))
    pictures.animate(tmp_path / "a.gif", paths, duration=300)
    frames = imageio.imread(tmp_path / "a.gif", index=None)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), [200, 0, 100], atol=2)


def history(epochs, names=("loss", "bits_per_dim")):
    return [
        {"epoch": float(epoch)}
        | {prefix + name: 10.0 / epoch for name in names for prefix in ("", "val_")}
        for epoch in range(1, epochs + 1)
    ]


@pytest.mark.parametrize("names", [("loss",), ("loss", "bits_per_dim")], ids=len)
def test_curves_have_a_plot_for_each_measure(names, tmp_path, monkeypatch):
    seen, render = [], pictures.render

    def note(draw, width, height):
        def draw_and_note(figure):
            draw(figure)
            seen.extend(figure.axes)

        return render(draw_and_note, width, height)

    monkeypatch.setattr(pictures, "render", note)
    rows = history(4, names)
    rows[2]["val_loss"] = float("nan")
    pictures.curves(tmp_path / "a.png", rows)
    assert imageio.imread(tmp_path / "a.png").shape == (380, 550 * len(names), 3)
    assert [ax.get_ylabel().split()[0] for ax in seen] == [name.split("_")[0] for name in names]
    for name, ax in zip(names, seen, strict=True):
        assert [line.get_label() for line in ax.lines] == ["training", "validation"]
        for line, key in zip(ax.lines, (name, f"val_{name}"), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
            np.testing.assert_array_equal(line.get_ydata(), [row[key] for row in rows])


def test_curves_of_one_epoch(tmp_path):
    pictures.curves(tmp_path / "a.png", history(1))
    assert imageio.imread(tmp_path / "a.png").std() > 10
