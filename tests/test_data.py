"""Data files as people have them, and what is said of those that cannot be used."""

import numpy as np
import pytest

import nice
from support import data

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 6, 4), dtype="uint8")


def save(path, x_train=GREY, x_test=GREY[:5], **labels):
    np.savez(path / "mine.npz", x_train=x_train, x_test=x_test, **labels)
    return path / "mine.npz"


@pytest.mark.parametrize(
    ("images", "dtype"),
    [
        (GREY, "uint8"),
        (GREY.astype("int64"), "uint8"),
        (GREY / 255, "float32"),
        (GREY.astype("float32") / np.float32(255), "float32"),
        (np.asfortranarray(GREY), "uint8"),
        (RNG.integers(0, 256, (20, 6, 4, 3), dtype="uint8"), "uint8"),
        (GREY[..., None], "uint8"),
    ],
)
def test_every_kind_of_number_becomes_grey_levels(images, dtype, tmp_path):
    (x_train, y_train), (x_test, _) = data.load(save(tmp_path, images, images[:5]))
    assert x_train.dtype == dtype and x_train.shape == images.shape
    expected = images * 255 if dtype == "float32" else images
    np.testing.assert_allclose(x_train, expected, atol=1e-4)
    np.testing.assert_array_equal(x_test, x_train[:5])
    assert y_train.shape == (20,) and set(y_train) == {None}


def test_booleans_are_black_and_white(tmp_path):
    (x_train, _), _ = data.load(save(tmp_path, GREY > 99, GREY[:5] > 99))
    np.testing.assert_array_equal(x_train, np.where(GREY > 99, 255, 0))


def test_medmnists_names_are_taken_as_ours(tmp_path):
    labels = np.arange(20)[:, None] % 3
    arrays = {"train_images": GREY, "train_labels": labels, "val_images": GREY}
    np.savez(tmp_path / "med.npz", **arrays, test_images=GREY[:5], test_labels=labels[:5])
    (x_train, y_train), (x_test, y_test) = data.load(tmp_path / "med.npz")
    np.testing.assert_array_equal(x_train, GREY)
    np.testing.assert_array_equal(y_train, labels.ravel())
    assert len(x_test) == len(y_test) == 5


@pytest.mark.parametrize(
    "labels", [np.arange(20) % 3, (np.arange(20) % 3)[:, None], np.eye(3)[np.arange(20) % 3]]
)
def test_labels_may_be_in_a_column_or_one_hot(labels, tmp_path):
    (_, y_train), _ = data.load(save(tmp_path, y_train=labels))
    assert y_train.dtype == "int64"
    np.testing.assert_array_equal(y_train, np.arange(20) % 3)


@pytest.mark.parametrize("labels", [np.array(["cat"] * 20), np.arange(7), RNG.random((20, 3))])
def test_unusable_labels_are_named_and_left_out(labels, tmp_path, capsys):
    (_, y_train), _ = data.load(save(tmp_path, y_train=labels))
    assert set(y_train) == {None}
    assert "mine.npz: y_train is left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("x_train", "words"),
    [
        (GREY.reshape(20, 24), "has shape (20, 24), no images; make one: np.savez("),
        (np.zeros((0, 6, 4), "uint8"), "has shape (0, 6, 4)"),
        (np.zeros((20, 6, 4, 2), "uint8"), "has shape (20, 6, 4, 2)"),
        (np.full((20, 6, 4), "a"), "holds <U1"),
        (GREY + 1j, "holds complex128"),
        (GREY - 300.0, "white is 1: rescale it"),
        (GREY.astype("int64") * 2, "white is 255: rescale it"),
        (np.where(GREY > 250, np.nan, GREY / 255), "from nan to nan"),
        (GREY // 16, "has values from 0 to 15 (uint8); white is 255: rescale it"),
        (GREY / 255 / 250, "white is 1: rescale it"),
        (GREY // 255, "has values from 0 to 1 (uint8)"),
        (GREY[:, :5], "training and test images have different shapes"),
    ],
)
def test_bad_images(x_train, words, tmp_path, refuse):
    path = save(tmp_path, x_train)
    refuse(nice.main, ["--data", path, "--output", tmp_path / "out"], path, words)
    assert not (tmp_path / "out").exists()


def test_dark_images_are_taken_with_a_word(tmp_path, capsys):
    data.load(save(tmp_path, GREY // 3, GREY[:5] // 3))
    assert "x_train has values from 0 to 85 (uint8); white is 255: rather dark" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("name", ["images.csv", "image.png", "images.npy", "no-such-file.npz"])
def test_other_files_are_refused_with_the_remedy(name, tmp_path, refuse):
    path = tmp_path / name
    if name.startswith("image"):
        path.write_bytes(b"1,2,3\n")
    words = "no such file" if "no-such" in name else "not an .npz file"
    refuse(nice.main, ["--data", path], path, words, "np.savez(")


def test_other_arrays_are_listed(tmp_path, refuse):
    np.savez(tmp_path / "other.npz", images=GREY, y=GREY)
    path = tmp_path / "other.npz"
    refuse(nice.main, ["--data", path], "no x_train and x_test, but images, y", "np.savez(")


@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_a_damaged_file_is_refused(damage, digits, tmp_path, refuse):
    content, path = bytearray(digits.read_bytes()), tmp_path / "damaged.npz"
    content[len(content) // 2] ^= 1
    damaged = {"cut": content[:-5000], "flipped": content, "text": b"hello"}[damage]
    path.write_bytes(damaged)
    refuse(nice.main, ["--data", path], path, "not a readable .npz file")


def test_pickled_objects_are_not_run(tmp_path, refuse):
    class Trap:
        def __reduce__(self):
            return print, ("run",)

    np.savez(tmp_path / "trap.npz", x_train=np.array([Trap()]), x_test=GREY, allow_pickle=True)
    refuse(nice.main, ["--data", tmp_path / "trap.npz"], "not a readable .npz file")


def test_fingerprints_tell_data_apart():
    other = GREY.copy()
    other[3, 2, 1] ^= 1
    found = {data.fingerprint(GREY, GREY[:5]), data.fingerprint(other, GREY[:5])}
    found |= {data.fingerprint(GREY), data.fingerprint(GREY[:5], GREY)}
    assert len(found) == 4 and data.fingerprint(GREY) == data.fingerprint(GREY.copy())


def test_odd_images_are_refused_with_the_reason(tmp_path, refuse):
    path = save(tmp_path, GREY[:, :5, :3], GREY[:5, :5, :3])
    refuse(nice.main, ["--data", path, "--output", tmp_path / "o"], "5 × 3 images have 15 values")
