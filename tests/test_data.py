"""Images: loading and checking them, bad data files, and batches."""

import functools
import re
import tracemalloc
import weakref
import zipfile

import keras
import numpy as np
import pytest
from conftest import SMALL

import nice
from layers import CodeSampler, UniformNoise
from support import data, gaussians, memory
from support.batches import Batches


def peak(run):
    """The most bytes of NumPy's that `run` holds at once, those of `memory.block` included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "block", lambda size: np.zeros(size, "uint8").data)
        tracemalloc.start()
        run()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return most


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype="uint8")


def save(path, x_train, x_test=None, **arrays):
    np.savez(path, x_train=x_train, x_test=x_train if x_test is None else x_test, **arrays)
    return path


# --- Loading ---------------------------------------------------------------------------------


def test_real_mnist_in_grey_levels():
    x_train, x_test, y_test = data.load_images()
    assert x_train.shape == (60000, 28, 28) and x_test.shape == (10000, 28, 28)
    assert np.bincount(y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert x_train.dtype == x_test.dtype == np.uint8
    assert x_train.min() == 0 and x_train.max() == 255


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_images_with_and_without_channels(channels, tmp_path):
    images = pixels(7, 6, 4, *channels)
    x_train, x_test, y_test = data.load_images(save(tmp_path / "data.npz", images, images[:2]))
    np.testing.assert_array_equal(x_train, images)
    np.testing.assert_array_equal(x_test, images[:2])
    assert y_test is None


def test_every_kind_of_number_becomes_grey_levels(tmp_path):
    """Integers are grey levels, floats have white at 1, and booleans are black and white."""
    grey = pixels(5, 4, 4)
    cases = [(grey.astype(kind), grey, "uint8") for kind in ("uint8", "int16", "uint32", "int64")]
    for kind in ("float64", "float32", "float16"):
        cases.append(((grey / 255).astype(kind), grey, "float32"))
    cases.append((grey > 100, 255 * (grey > 100), "uint8"))
    for stored, expected, kind in cases:
        x_train, x_test, _ = data.load_images(save(tmp_path / "data.npz", stored))
        assert x_train.dtype == x_test.dtype == kind
        np.testing.assert_allclose(x_train, expected, atol=0.2 if stored.itemsize == 2 else 1e-4)
        if stored.dtype.kind == "f":
            assert x_train.max() <= 255


def test_uint8_images_are_not_copied():
    images = pixels(5, 4, 4)
    assert np.shares_memory(data.grey_levels({"x": images}, "file", "x"), images)


def test_loading_takes_little_more_than_the_file(tmp_path):
    images = pixels(4000, 28, 28)
    path = save(tmp_path / "data.npz", images, images[:10])
    assert peak(lambda: data.load_images(path)) < 1.5 * images.nbytes


def test_a_file_is_read_once(tmp_path, monkeypatch):
    images, read = pixels(400, 28, 28), []
    path = save(tmp_path / "data.npz", images, images[:10])
    whole = zipfile.ZipExtFile.read

    def count(self, *args):
        read.append(whole(self, *args))
        return read[-1]

    monkeypatch.setattr(zipfile.ZipExtFile, "read", count)
    data.load_images(path)
    once = images.nbytes + images[:10].nbytes
    assert once <= sum(map(len, read)) < once + 1000  # and the arrays' headers


def test_test_images_alone(digits, monkeypatch):
    """The training images, which are most of a file, stay unread."""
    _, x_test, y_test = data.load_images(digits)
    asked = []
    read = data.read_arrays
    monkeypatch.setattr(data, "read_arrays", lambda *args: asked.extend(args[1]) or read(*args))
    alone, labels = data.load_test_images(digits)
    np.testing.assert_array_equal(alone, x_test)
    np.testing.assert_array_equal(labels, y_test)
    assert asked == ["x_test", "y_test"]


def test_arrays_in_column_order(tmp_path):
    """As transposes and other programs store them: the same images, the same fingerprint."""
    images = pixels(20, 6, 4)
    arrays = {}
    for name, order in (("rows", "C"), ("columns", "F")):
        path = save(tmp_path / f"{name}.npz", np.array(images, order=order))
        arrays[name], *_ = data.load_images(path)
        np.testing.assert_array_equal(arrays[name], images)
    assert not arrays["columns"].flags.c_contiguous
    assert data.fingerprint(arrays["columns"]) == data.fingerprint(arrays["rows"])


def test_fingerprints_tell_data_apart():
    one, other = pixels(20, 6, 4), pixels(20, 6, 4, seed=1)
    prints = [data.fingerprint(*arrays) for arrays in ((one, one), (other, other), (one, other))]
    prints += [data.fingerprint(other, one), data.fingerprint(one)]
    assert len(set(prints)) == 5
    assert all(re.fullmatch("[0-9a-f]{8}", text) for text in prints)
    assert data.fingerprint(one, one) == data.fingerprint(one.copy(), one.copy())


def test_keras_data_sets(monkeypatch, refuse, tmp_path):
    images, labels = pixels(6, 8, 8, 3), np.arange(6)[:, None]
    monkeypatch.setattr(
        keras.datasets.cifar10, "load_data", lambda: ((images, labels), (images[:4], labels[:4]))
    )
    x_train, x_test, y_test = data.load_images("cifar10")
    np.testing.assert_array_equal(x_train, images)
    np.testing.assert_array_equal(x_test, images[:4])
    np.testing.assert_array_equal(y_test, labels[:4].ravel())

    # So configured, Keras returns its colour images with the channels first.
    turned = np.moveaxis(images, -1, 1)
    monkeypatch.setattr(
        keras.datasets.cifar10, "load_data", lambda: ((turned, labels), (turned[:4], labels[:4]))
    )
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    np.testing.assert_array_equal(data.load_images("cifar10")[0], images)

    def no_network():
        raise Exception("URL fetch failure\nand more")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", no_network)
    command = ["--data", "cifar10", "--output", tmp_path / "output"]
    refuse(nice.main, command, "cifar10", "URL fetch failure")
    assert not (tmp_path / "output").exists()


# --- Bad data --------------------------------------------------------------------------------

GOOD = np.zeros((9, 4, 4), "uint8")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x_test": GOOD}, "no x_train"),
        ({"x_train": GOOD}, "no x_test"),
        ({"x_train": GOOD[:0], "x_test": GOOD}, "x_train holds no images"),
        ({"x_train": GOOD, "x_test": GOOD[:0]}, "x_test holds no images"),
        ({"x_train": np.zeros(9, "uint8"), "x_test": GOOD}, "holds no images"),
        ({"x_train": np.array([{}, {}], object), "x_test": GOOD}, "not a readable .npz"),
        ({"x_train": np.array(["a", "b"]), "x_test": GOOD}, "not pixel values"),
        ({"x_train": np.full((9, 4, 4), 1j), "x_test": GOOD}, "not pixel values"),
        ({"x_train": np.full((9, 4, 4), 256), "x_test": GOOD}, "outside 0..255"),
        ({"x_train": np.full((9, 4, 4), -1), "x_test": GOOD}, "outside 0..255"),
        ({"x_train": np.full((9, 4, 4), 1.5), "x_test": GOOD}, "outside 0..1"),
        ({"x_train": np.full((9, 4, 4), np.nan), "x_test": GOOD}, "outside 0..1"),
        ({"x_train": GOOD + np.uint8(1), "x_test": GOOD}, "no value but 0 and 1"),
        ({"x_train": np.eye(4, dtype="uint8")[None], "x_test": GOOD}, "store it as booleans"),
        ({"x_train": GOOD[:, :3, :3], "x_test": GOOD[:, :3, :3]}, "even number"),
        ({"x_train": np.zeros((9, 6, 6), "uint8"), "x_test": GOOD}, "differ in shape"),
        # Channels first look like images with as many channels as they are wide.
        ({"x_train": pixels(9, 3, 8, 8), "x_test": pixels(9, 3, 8, 8)}, "1, 3 or 4 channels"),
        ({"x_train": pixels(9, 8, 8, 2), "x_test": pixels(9, 8, 8, 2)}, "1, 3 or 4 channels"),
        ({"x_train": pixels(9, 2, 8, 8, 3), "x_test": GOOD}, "holds no images"),
        (
            {"x_train": GOOD, "x_test": GOOD, "y_test": np.arange(8)},
            "(8,), not one label an image: 9",
        ),
        ({"x_train": GOOD, "x_test": GOOD, "y_test": np.eye(9)}, "(9, 9), not one label"),
        ({"x_train": GOOD, "x_test": GOOD, "y_test": np.array(1)}, "(), not one label an image: 9"),
    ],
)
def test_bad_images(arrays, words, tmp_path, refuse):
    path, output = tmp_path / "data.npz", tmp_path / "output"
    np.savez(path, **arrays)
    refuse(nice.main, ["--data", path, "--output", output, *SMALL], words)
    assert not output.exists()


def test_one_grey_level_is_enough_where_it_is_not_1(tmp_path):
    """An all black set and one with a 2 are odd, but not ambiguous."""
    for images in (GOOD, GOOD + np.uint8(2)):
        x_train, *_ = data.load_images(save(tmp_path / "data.npz", images))
        np.testing.assert_array_equal(x_train, images)


def test_bad_data_files(digits, tmp_path, refuse):
    output = ["--output", tmp_path / "output"]
    refuse(nice.main, ["--data", "missing.npz", *output], "missing.npz", "no such file")
    refuse(nice.main, ["--data", tmp_path, *output], tmp_path)
    bad = tmp_path / "bad.npz"
    for content in (b"", b"PK\3\4 and no more", digits.read_bytes()[:-1000]):
        bad.write_bytes(content)
        refuse(nice.main, ["--data", bad, *output], "bad.npz: not a readable .npz file")
    np.save(tmp_path / "one.npy", GOOD)
    refuse(nice.main, ["--data", tmp_path / "one.npy", *output], "one.npy: not a readable .npz")
    assert not (tmp_path / "output").exists()


# --- Batches ---------------------------------------------------------------------------------


def test_batches_hold_the_rows_in_order():
    images, rows = pixels(20, 4, 4), np.array([3, 1, 19, 7, 7])
    batches = Batches(images, rows, 2)
    assert len(batches) == 3
    parts = [batches[i] for i in range(3)]
    assert [len(x) for (x,) in parts] == [2, 2, 1]
    assert {x.dtype for (x,) in parts} == {np.dtype("float32")}
    np.testing.assert_array_equal(np.concatenate([x for (x,) in parts]), images[rows])


@pytest.mark.parametrize("order", ["C", "F"])
def test_what_fit_is_fed_follows_the_rows(order):
    """On TensorFlow it is a pipeline, which must see that rows are put in another order."""
    images = np.array(pixels(20, 4, 4), order=order)
    batches = Batches(images, np.arange(20), 8)
    feed = batches.feed()
    for rows in (np.arange(20), np.arange(20)[::-1]):
        batches.rows = rows
        parts = [feed[i] for i in range(3)] if feed is batches else list(feed)
        read = np.concatenate([np.asarray(x) for (x,) in parts])
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, images[rows])


def test_batches_keep_the_images_as_they_are():
    """No copy of the set, neither as float32 nor otherwise: only one batch at a time."""
    images = pixels(4000, 28, 28)
    batches = Batches(images, np.arange(len(images)), 100, UniformNoise(0, 1))
    most = peak(lambda: [batches[i] and None for i in range(len(batches))])
    assert np.shares_memory(batches.images, images) and batches.images.dtype == np.uint8
    assert most < images.nbytes / 2


def test_the_fit_of_the_codes_does_not_hold_them_all(monkeypatch):
    small = functools.partial(CodeSampler, 10, 20)
    monkeypatch.setattr(nice, "CodeSampler", lambda components, directions, name: small(name=name))
    encoder = nice.build_encoder((16, 16), nice.Recipe(1, 1, 8))
    images = np.random.default_rng(0).integers(0, 256, (20000, 16, 16), dtype="uint8")
    batches = Batches(images, np.arange(20000), 100)
    nice.fit_codes(encoder, Batches(images, np.arange(2000), 100))  # compiles
    assert peak(lambda: nice.fit_codes(encoder, batches)) < 2 * images.nbytes  # as float32: 4


def test_what_the_gaussians_are_fitted_to_is_freed_before_the_next_pass(monkeypatch):
    gather, means, gathered = gaussians.gather, gaussians.weighted_means, []

    def watched(*args):
        y = gather(*args)
        gathered.append(weakref.ref(y))
        return y

    def after_it(parts):
        (y,) = gathered
        assert y() is None
        return means(parts)

    monkeypatch.setattr(gaussians, "gather", watched)
    monkeypatch.setattr(gaussians, "weighted_means", after_it)
    encoder = nice.build_encoder((4, 4), nice.Recipe(1, 1, 8))
    nice.fit_codes(encoder, Batches(pixels(60, 4, 4)))
    assert gathered


def test_directions_are_found_in_place():
    """Their matrix of D times D is the largest thing; it was added up in copies."""
    rows = [np.ones((2, 1000), "float32")] * 3
    assert peak(lambda: gaussians.principal_directions(iter(rows), 5)) < 5.5 * 4 * 1000**2


def test_gaussians_are_fitted_in_place():
    """A fit's largest arrays are the covariances, one for each Gaussian: there are no copies."""
    y = np.random.default_rng(0).normal(size=(500, 120)).astype("float16")
    one = np.eye(50, dtype="float32")

    def belonging(some):
        return one[np.arange(len(some)) % 50]

    assert peak(lambda: gaussians.fit_gaussians(y, 50, belonging)) < 1.5 * 4 * 50 * 120**2


@pytest.mark.parametrize("prior", ["gaussian", "logistic", "mixture"])
def test_the_start_copies_only_what_it_looks_at(prior):
    """10,000 images as float32 are twice as much as these, and were held five times."""
    encoder = nice.build_encoder((28, 28), nice.Recipe(1, 1, 8, prior=prior))
    images = np.random.default_rng(0).integers(0, 256, (20000, 28, 28), dtype="uint8")
    batches = Batches(images, np.arange(20000), 100)
    nice.start_from_data(encoder, Batches(images, np.arange(500), 100))  # compiles
    assert peak(lambda: nice.start_from_data(encoder, batches)) < 2 * images.nbytes


def test_batches_are_small_where_nothing_learns():
    """Each of a pass's many arrays is as large: in batches of 1,000 they took as much as MNIST."""
    assert Batches(pixels(1000, 28, 28))[0][0].nbytes < 1e6


def test_a_fingerprint_copies_little_and_sees_what_the_bytes_say():
    images = np.random.default_rng(0).integers(0, 256, (5000, 28, 28), dtype="uint8")
    prints = []
    columns = np.asfortranarray(images)
    assert peak(lambda: prints.append(data.fingerprint(columns))) < images.nbytes / 2
    assert prints == [data.fingerprint(images)] != [data.fingerprint(images[::-1])]


def test_noise_in_batches_is_the_same_whenever_they_are_read():
    images = np.full((50, 4, 4), 100, "uint8")

    def read(seed):
        batches = Batches(images, np.arange(50), 20, UniformNoise(0, 1), seed)
        return [np.concatenate([batches[i][0] for i in range(3)]) - 100 for _ in range(2)]

    first, again = read(seed=1)
    np.testing.assert_array_equal(first, again)
    assert 0 <= first.min() and first.max() <= 1 and first.std() == pytest.approx(0.29, abs=0.02)
    assert (read(seed=2)[0] != first).mean() > 0.99
    draws = np.concatenate([read(seed)[0][i : i + 20] for seed in range(3) for i in (0, 20)])
    assert len(np.unique(draws)) > 0.99 * draws.size  # no batch of any seed repeats another
