"""`python -m examples.own_images`: a data file of a folder of pictures."""

from support import data

from examples import own_images

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 6, 5), dtype="uint8")


def write(folder, images=GREY, names=("circle", "square")):
    """Write images in turn to folders of these names; return the first one's path."""
    for n, image in enumerate(images):
        path = folder / names[n % len(names)] / f"{n:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        imageio.imwrite(path, image)
    return folder / names[0] / "00.png"


def make(folder, name="mine.npz"):
    """Make a data file beside the folder; return all its images and their labels."""
    assert own_images.main([folder, folder.parent / name]) == 0
    (x_train, y_train), (x_test, y_test) = data.load(folder.parent / name)
    assert len(x_test) == (len(x_train) + len(x_test)) // 6
    return np.concatenate([x_train, x_test]), np.concatenate([y_train, y_test])


def label_of(image, images, labels):
    """The label of an image, which must be there once."""
    (place,) = np.flatnonzero([np.array_equal(image, one) for one in images])
    return labels[place]


@pytest.mark.parametrize(
    ("names", "expected", "numbering"),
    [
        (("circle", "square"), [0, 1], "labels: {0: 'circle', 1: 'square'}"),
        (("0", "1", "2", "10", "11"), [0, 1, 2, 10, 11], None),
        (("1", "26", "-3"), [1, 26, -3], None),
        (("1", "two"), [0, 1], "labels: {0: '1', 1: 'two'}"),
        (("10", "1_0"), [0, 1], "labels: {0: '10', 1: '1_0'}"),
        (("01", "1"), [0, 1], "labels: {0: '01', 1: '1'}"),
    ],
)
def test_labels_are_the_folders(names, expected, numbering, tmp_path, capsys):
    write(tmp_path / "in", names=names)
    images, labels = make(tmp_path / "in")
    printed = capsys.readouterr().out
    assert (numbering or "") in printed and ("labels:" in printed) == bool(numbering)
    for n, image in enumerate(GREY):
        assert label_of(image, images, labels) == expected[n % len(names)]


def test_images_only(tmp_path):
    write(tmp_path / "in", names=[""])
    images, labels = make(tmp_path / "in")
    assert images.shape == (12, 6, 5) and set(labels) == {0}


@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5, 4)])
def test_colours(shape, tmp_path):
    colour = RNG.integers(0, 256, (6, *shape), dtype="uint8")
    write(tmp_path / "in", colour)
    assert make(tmp_path / "in")[0].shape == (6, *shape)


def test_black_and_white_pictures(tmp_path):
    write(tmp_path / "in", GREY > 99)
    images, _ = make(tmp_path / "in")
    assert set(np.unique(images)) == {0, 255}


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".webp", ".jpg"])
def test_kinds_of_pictures(suffix, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for n, image in enumerate(GREY):
        imageio.imwrite(folder / f"{n:02}{suffix}", image)
    images, _ = make(folder)
    assert len(images) == 12


def test_other_files_are_counted(tmp_path, capsys, refuse):
    write(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("of a camera")
    make(tmp_path / "in")
    assert "left out: 1 files of other kinds, such as" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "one.gif").write_bytes(b"GIF")
    main = [tmp_path / "empty", tmp_path / "no.npz"]
    refuse(own_images.main, main, "found 0 of .png, .jpg")


def test_pictures_are_turned_as_their_camera_says(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    camera = Image.Exif()
    camera[0x0112] = 6  # orientation: turn by 90 degrees to the right
    for n in range(6):
        upright = GREY[n]
        Image.fromarray(np.rot90(upright)).save(folder / f"{n}.png", exif=camera)
    images, _ = make(folder)
    assert images.shape == (6, 6, 5)
    for image in images:
        assert any(np.array_equal(image, upright) for upright in GREY[:6])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, refuse):
    write(tmp_path / "in")
    (tmp_path / "mine.npz").write_bytes(b"of another run")

    def fail(path, **arrays):
        path.write_bytes(b"half")
        raise OSError("no room")

    monkeypatch.setattr(np, "savez", fail)
    arguments = [tmp_path / "in", tmp_path / "mine.npz"]
    refuse(own_images.main, arguments, "cannot write", "no room", status=1)
    assert (tmp_path / "mine.npz").read_bytes() == b"of another run"
    assert not list(tmp_path.glob("partial-*"))


def test_hidden_files_are_skipped_and_links_followed(tmp_path):
    write(tmp_path / "elsewhere", names=["circle"])
    folder = tmp_path / "in"
    folder.mkdir()
    try:
        (folder / "round").symlink_to(tmp_path / "elsewhere" / "circle", True)
    except OSError:
        pytest.skip("this system allows no links")
    for hidden in ("._00.png", "round/._01.png", ".checkpoints/02.png"):
        (folder / hidden).parent.mkdir(exist_ok=True)
        (folder / hidden).write_bytes(b"Mac")
    images, _ = make(folder)
    assert len(images) == 12


@pytest.mark.parametrize("name", ["mine.npz", "mine", "mine.v2"])
def test_the_name_of_the_file(name, tmp_path, capsys):
    (tmp_path / "mine.npz").write_bytes(b"of another run")
    write(tmp_path / "in")
    assert own_images.main([tmp_path / "in", tmp_path / name]) == 0
    written = tmp_path / {"mine.v2": "mine.v2.npz"}.get(name, "mine.npz")
    data.load(written)
    assert f"--data {written} --output mine" in capsys.readouterr().out
    if name == "mine.v2":
        assert (tmp_path / "mine.npz").read_bytes() == b"of another run"


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"", "is empty, damaged or no picture"),
        (b"hello", "is empty, damaged or no picture"),
        ("cut", "is empty, damaged or no picture"),
        (GREY[0].astype("uint16") * 256, "is 6 × 5 grey (uint16): only 8 bits"),
        (GREY[0][..., None].repeat(2, axis=2), "is 6 × 5 grey with alpha (uint8)"),
        (GREY[0][..., None].repeat(3, axis=2), "is 6 × 5 RGB (uint8): make all alike"),
        (GREY[0][:, :4], "is 6 × 4 grey (uint8): make all alike"),
        (GREY[0] > 99, "is 6 × 5 grey (bool): make all alike"),
    ],
)
def test_a_picture_that_cannot_be_used_is_named(image, words, tmp_path, refuse):
    write(tmp_path / "in")
    path = tmp_path / "in" / "square" / "odd.png"
    if isinstance(image, bytes):
        path.write_bytes(image)
    elif isinstance(image, str):
        imageio.imwrite(path, RNG.integers(0, 256, (60, 50), dtype="uint8"))
        path.write_bytes(path.read_bytes()[:1500])
    else:
        imageio.imwrite(path, image)
    refuse_folder(tmp_path, refuse, path, words)


def refuse_folder(tmp_path, refuse, *words):
    """Check that no data file is made of the folder "in"."""
    output = tmp_path / "mine.npz"
    refuse(own_images.main, [tmp_path / "in", output], *words)
    assert not output.exists()


def test_animated_pictures_are_refused(tmp_path, refuse):
    path = write(tmp_path / "in")
    colour = RNG.integers(0, 256, (3, 6, 5, 3), dtype="uint8")
    imageio.imwrite(path, colour, extension=".png", is_batch=True)
    refuse_folder(tmp_path, refuse, path, "animated")


def test_what_nice_would_refuse_is_not_written(tmp_path, refuse):
    write(tmp_path / "in", GREY[:5])
    refuse_folder(tmp_path, refuse, "at least 6 images are needed, found 5")
    write(tmp_path / "in", GREY[:6] // 16)
    refuse_folder(tmp_path, refuse, "x_train has values from 0 to 15 (uint8)")


def test_neither_folder_nor_data_set(tmp_path, refuse):
    refuse(
        own_images.main, ["fashionmnist", tmp_path / "x"], "fashionmnist: no such fol"
    )


def test_a_data_set_of_keras(tmp_path, monkeypatch, refuse):
    import keras

    train, test = (GREY[:6], np.arange(6)[:, None]), (GREY[6:], np.arange(6)[:, None])
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (train, test))
    assert own_images.main(["cifar10", tmp_path / "mine.npz"]) == 0
    (x_train, y_train), (x_test, _) = data.load(tmp_path / "mine.npz")
    np.testing.assert_array_equal(x_train, GREY[:6])
    np.testing.assert_array_equal(x_test, GREY[6:])
    assert y_train.tolist() == [0, 1, 2, 3, 4, 5]

    def fail():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", fail)
    arguments = ["cifar10", tmp_path / "other.npz"]
    refuse(
        own_images.main, arguments, "cifar10 cannot be downloaded: URL fetch failure"
    )
