"""Data files as people have them, and what is said of those that cannot be used."""

from support import data
from support.errors import UserError

import nice

import re

import numpy as np
import pytest

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
    assert y_train is None


def test_floats_may_exceed_1_by_rounding(tmp_path):
    images = np.where(GREY == GREY.max(), 1.0000001, GREY / 255)
    (x_train, _), _ = data.load(save(tmp_path, images, images[:5]))
    assert x_train.max() == 255


def test_floats_around_0_are_not_told_to_be_multiplied(tmp_path):
    images = GREY / 127.5 - 1
    with pytest.raises(UserError, match="white is 1: rescale it") as refusal:
        data.load(save(tmp_path, images, images[:5]))
    assert "multiply" not in str(refusal.value)


def test_booleans_are_black_and_white(tmp_path):
    (x_train, _), _ = data.load(save(tmp_path, GREY > 99, GREY[:5] > 99))
    np.testing.assert_array_equal(x_train, np.where(GREY > 99, 255, 0))


def test_medmnists_names_are_taken_as_ours(tmp_path):
    labels = np.arange(20)[:, None] % 3
    arrays = {"train_images": GREY, "train_labels": labels, "val_images": GREY}
    np.savez(
        tmp_path / "med.npz", **arrays, test_images=GREY[:5], test_labels=labels[:5]
    )
    (x_train, y_train), (x_test, y_test) = data.load(tmp_path / "med.npz")
    np.testing.assert_array_equal(x_train, GREY)
    np.testing.assert_array_equal(y_train, labels.ravel())
    assert len(x_test) == len(y_test) == 5


DIGITS = np.arange(20) % 3


@pytest.mark.parametrize(
    "labels",
    [
        DIGITS,
        DIGITS[:, None],
        np.eye(3)[DIGITS],
        DIGITS.astype(str),
        DIGITS.astype("S1"),
    ],
)
def test_labels_may_be_in_a_column_one_hot_or_text(labels, tmp_path):
    (_, y_train), _ = data.load(save(tmp_path, y_train=labels))
    assert y_train.dtype == "int64"
    np.testing.assert_array_equal(y_train, DIGITS)


def test_text_of_dtype_object_will_do_from_python():
    """As `fetch_openml` gives it."""
    labels = DIGITS.astype(str).astype(object)
    np.testing.assert_array_equal(data.integer_labels(labels, 20, "labels"), DIGITS)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array(["cat"] * 20), "dtype <U3, not integers such as y.astype(int)"),
        (np.array(["12345678901234567890"] * 20), "dtype <U20, not integers"),
        (DIGITS.astype(str).astype(object), "dtype object, not integers such as y.ast"),
        (np.arange(7), "it has shape (7,), for 20 images"),
        (RNG.random(20), "its numbers are not integers"),
        (RNG.random((20, 3)), "it has shape (20, 3), for 20 images"),
        (np.array(["7.5"] * 20, dtype=object), "dtype object"),
    ],
)
def test_unusable_labels_are_named_and_left_out(labels, words, tmp_path, capsys):
    (x_train, y_train), (_, y_test) = data.load(
        save(tmp_path, y_train=labels, y_test=DIGITS[:5])
    )
    assert y_train is None and len(x_train) == 20 and y_test.tolist() == [0, 1, 2, 0, 1]
    printed = capsys.readouterr().out
    assert "mine.npz: y_train is left out" in printed and words in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("x_train", "words"),
    [
        (GREY.reshape(20, 24), "has shape (20, 24), no images; make one: np.savez("),
        (np.zeros((0, 6, 4), "uint8"), "has shape (0, 6, 4)"),
        (np.zeros((20, 6, 5, 2), "uint8"), "has shape (20, 6, 5, 2), no images"),
        (np.full((20, 6, 4), "a"), "x_train is of dtype <U1"),
        (GREY.astype(object), "x_train is of dtype object"),
        (GREY + 1j, "is of dtype complex128"),
        (GREY - 300.0, "white is 1: rescale it"),
        (GREY.astype("int64") * 2, "white is 255: rescale it"),
        (np.where(GREY > 250, np.nan, GREY / 255), "from nan to nan"),
        (GREY // 16, "has values from 0 to 15 (uint8); white is 255: rescale it"),
        (GREY / 255 / 250, "white is 1: rescale it"),
        (GREY // 255, "has values from 0 to 1 (uint8)"),
        (GREY[:, :5], "x_train and x_test have shapes (20, 5, 4) and (5, 6, 4)"),
    ],
)
def test_bad_images(x_train, words, tmp_path, refuse):
    path = save(tmp_path, x_train)
    refuse(nice.main, ["--data", path, "--output", tmp_path / "out"], path, words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shape", "order", "words"),
    [
        ((20, 6, 5, 1), (0, 3, 1, 2), "but channels come last"),
        ((20, 6, 5, 3), (0, 3, 1, 2), "but channels come last"),
        ((20, 6, 5, 3), (1, 2, 3, 0), "the number of images comes first"),
        ((20, 6, 5), (1, 2, 0), "the number of images comes first"),
    ],
)
def test_axes_in_another_order_are_refused_with_the_remedy(
    shape, order, words, tmp_path
):
    images = RNG.integers(0, 256, shape, dtype="uint8")
    x_train, x_test = images.transpose(order), images[:7].transpose(order)
    with pytest.raises(UserError, match=words) as refusal:
        data.load(save(tmp_path, x_train, x_test))
    remedy = re.search(r"transpose\(([\d, ]+)\)", str(refusal.value))[1]
    remedy = [int(axis) for axis in remedy.split(",")]
    path = save(tmp_path, x_train.transpose(remedy), x_test.transpose(remedy))
    np.testing.assert_array_equal(data.load(path)[0][0], images)


def test_dark_images_are_taken(tmp_path):
    (x_train, _), _ = data.load(save(tmp_path, GREY // 3, GREY[:5] // 3))
    np.testing.assert_array_equal(x_train, GREY // 3)


@pytest.mark.parametrize(
    "name", ["images.csv", "image.png", "images.npy", "no-such-file.npz"]
)
def test_other_files_are_refused_with_the_remedy(name, tmp_path, refuse):
    path = tmp_path / name
    if name.startswith("image"):
        path.write_bytes(b"1,2,3\n")
    words = "no such file" if "no-such" in name else "not an .npz file"
    refuse(nice.main, ["--data", path], path, words, "np.savez(")


def test_other_arrays_are_listed(tmp_path, refuse):
    np.savez(tmp_path / "other.npz", images=GREY, y=GREY)
    path = tmp_path / "other.npz"
    refuse(
        nice.main, ["--data", path], "no x_train and x_test, but images, y", "np.savez("
    )


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

    np.savez(
        tmp_path / "trap.npz",
        x_train=np.array([Trap()]),
        x_test=GREY,
        allow_pickle=True,
    )
    words = "x_train is of dtype object"
    refuse(nice.main, ["--data", tmp_path / "trap.npz"], words)


def test_fingerprints_tell_data_apart():
    other = GREY.copy()
    other[3, 2, 1] ^= 1
    found = {data.fingerprint(GREY, GREY[:5]), data.fingerprint(other, GREY[:5])}
    found |= {data.fingerprint(GREY), data.fingerprint(GREY[:5], GREY)}
    assert len(found) == 4 and data.fingerprint(GREY) == data.fingerprint(GREY.copy())


def test_odd_images_are_refused_with_the_reason(tmp_path, refuse):
    path = save(tmp_path, GREY[:, :5, :3], GREY[:5, :5, :3])
    refuse(
        nice.main,
        ["--data", path, "--output", tmp_path / "o"],
        "images have 15 values",
    )


# --- Images from Python ------------------------------------------------------------


@pytest.mark.parametrize("images", [GREY / 255, GREY / np.float32(255), GREY > 99])
def test_floats_up_to_1_are_no_grey_levels(images):
    model = nice.build_encoder((6, 4), hidden_layers=1, hidden_units=4)
    for use in (
        data.check_grey_levels,
        nice.Batches,
        model.encode,
        model.log_likelihood,
        lambda images: nice.fit_mixture(model, images),
    ):
        with pytest.raises(UserError, match="multiply them by 255"):
            use(images)


@pytest.mark.parametrize(
    "images",
    [GREY, GREY.astype("float32"), np.zeros((2, 6, 4)), GREY // 255, GREY > 255],
)
def test_grey_levels_and_black_images_will_do(images):
    data.check_grey_levels(images)


@pytest.mark.parametrize("images", [GREY[0], GREY[:0], GREY[:, :5], 7])
def test_images_of_another_shape_are_refused(images):
    with pytest.raises(UserError, match=r"takes images \(n, 6, 4\), n at least 1, not"):
        data.check_images(images, (6, 4))


# --- Images held back --------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "share", "held"),
    [(20, 1 / 6, 3), (3, 1 / 6, 1), (2, 1 / 6, 1), (1, 0, 0)],
)
def test_the_last_images_are_held_back(count, share, held, capsys):
    kept = count - held
    x, y, x_held = data.hold_back(GREY[:count], DIGITS[:count], share)
    np.testing.assert_array_equal(x, GREY[:kept])
    np.testing.assert_array_equal(y, DIGITS[:kept])
    np.testing.assert_array_equal(x_held, GREY[kept:count])
    assert data.hold_back(GREY[:count], None, share)[1] is None


def test_one_training_image_is_too_few():
    with pytest.raises(UserError, match="one training image is too few"):
        data.hold_back(GREY[:1], None, 1 / 6)


def test_sorted_labels_are_warned_of(capsys):
    labels = np.repeat([0, 1, 2, 7], 5)
    data.hold_back(GREY, labels, 1 / 4)
    assert "labels [7] are held back" in capsys.readouterr().out
    data.hold_back(GREY, labels, 1 / 5)  # one 7 is trained on
    data.hold_back(GREY, np.random.default_rng(0).permutation(labels), 1 / 4)
    assert capsys.readouterr().out == ""
