"""The mixture: what is fitted to codes, and what is drawn from it. NumPy only."""

from support import mixture
from support.errors import UserError

import numpy as np
import pytest


def two_by_two(count=4000):
    """Codes (count, 12) of two labels with two tight clusters each, and their labels.

    Label 0 lies at -6 and -2 of the first dimension, label 1 at 2 and 6. Each also
    varies along a dimension of its own, with a deviation of 0.5.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    cluster = rng.integers(2, size=count)
    z = 0.01 * rng.normal(size=(count, 12))
    z[:, 0] += 4 * (2 * labels + cluster) - 6
    z[np.arange(count), 1 + labels] += 0.5 * rng.normal(size=count)
    return z.astype("float32"), labels


@pytest.fixture
def fitted():
    z, labels = two_by_two()
    return mixture.fit(z, labels, np.ones(12), images_per_mean=1000, most_axes=3)


def test_means_shares_and_axes_are_those_of_the_codes(fitted):
    assert fitted.labels == [0, 1]
    assert fitted.mean_labels.tolist() == [0, 0, 1, 1]
    assert fitted.shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(fitted.shares, 0.25, atol=0.03)
    first = (
        np.sort(fitted.means[:2, 0]).tolist() + np.sort(fitted.means[2:, 0]).tolist()
    )
    np.testing.assert_allclose(first, [-6, -2, 2, 6], atol=0.05)
    assert fitted.axes.shape == (2, 3, 12)
    for label in (0, 1):  # the longest axis is that dimension, as long as its deviation
        axis = fitted.axes_of(2 * label)[0]
        assert abs(axis[1 + label]) == pytest.approx(0.5, rel=0.05)
        assert np.linalg.norm(axis) == pytest.approx(0.5, rel=0.05)
        assert np.linalg.norm(fitted.axes_of(2 * label)[1]) < 0.02
    assert fitted.axes_of(np.array([3, 0, 1])).shape == (3, 3, 12)


def test_draws_of_a_label_have_its_means_and_spread(fitted):
    drawn = fitted.sample(8000, temperature=1.0, label=1)
    assert drawn.shape == (8000, 12) and drawn.dtype == np.float32
    clusters = np.abs(drawn[:, :1] - [-6, -2, 2, 6]).argmin(axis=1)
    np.testing.assert_allclose(
        np.bincount(clusters) / 8000, [0, 0, 0.5, 0.5], atol=0.03
    )
    assert drawn[:, 2].std() == pytest.approx(0.5, rel=0.05)
    assert fitted.sample(8000, 0.4, label=1)[:, 2].std() == pytest.approx(0.2, rel=0.05)
    cold = fitted.sample(50, temperature=0.0)
    assert {tuple(z) for z in cold} <= {tuple(mean) for mean in fitted.means}
    everything = fitted.sample(8000)
    assert np.mean(everything[:, 0] > 0) == pytest.approx(0.5, abs=0.03)


def test_draws_follow_the_seed(fitted):
    np.testing.assert_array_equal(fitted.sample(9, seed=1), fitted.sample(9, seed=1))
    assert np.any(fitted.sample(9, seed=1) != fitted.sample(9, seed=2))
    assert fitted.sample(0).shape == (0, 12)
    assert fitted.sample(0, label=1).dtype == np.float32


def test_distances_are_in_units_of_x():
    # Two clusters in x. The second dimension is noise, a hundred times wider in z.
    rng = np.random.default_rng(0)
    h = np.stack([np.arange(2000) % 2 - 0.5, 0.1 * rng.normal(size=2000)], axis=1)
    sigma = np.array([1, 0.001])
    z = (h / sigma).astype("float32")
    fitted = mixture.fit(z, None, sigma, images_per_mean=1000)
    np.testing.assert_allclose(np.sort(fitted.means[:, 0]), [-0.5, 0.5], atol=0.01)
    left = fitted.means[:, 0].argmin()
    codes = np.array([[-0.5, 90.0], [0.5, -90.0]], "float32")
    assert fitted.nearest(codes, sigma).tolist() == [left, 1 - left]
    # The axes are in units of z, like the means: a draw has the spread of the codes.
    drawn = fitted.sample(4000, temperature=1.0)
    np.testing.assert_allclose(drawn.std(axis=0), z.std(axis=0), rtol=0.05)


def test_saved_and_restored(fitted, tmp_path):
    np.savez(tmp_path / "mixture.npz", **fitted.arrays())
    with np.load(tmp_path / "mixture.npz") as file:
        restored = mixture.Mixture(**file)
    assert restored.labels == [0, 1] and restored.mean_labels.dtype == np.int64
    drawn = restored.sample(9, label=0)
    np.testing.assert_array_equal(drawn, fitted.sample(9, label=0))
    without = mixture.fit(two_by_two(100)[0], None, np.ones(12))
    assert "mean_labels" not in without.arrays()
    restored = mixture.Mixture(**without.arrays())
    assert restored.mean_labels is None
    np.testing.assert_array_equal(restored.sample(9), without.sample(9))


def test_unknown_labels_are_named(fitted):
    with pytest.raises(UserError, match="^no label 11: the model has 0, 1$"):
        fitted.sample(1, label=11)
    with pytest.raises(UserError, match="^label '7' is a str; labels are integers$"):
        fitted.sample(1, label="7")
    with pytest.raises(UserError, match="^label 1.0 is a float; labels are integers$"):
        fitted.sample(1, label=1.0)
    assert np.all(fitted.sample(9, label=np.int64(1))[:, 0] > 0)
    without = mixture.fit(two_by_two(100)[0], None, np.ones(12))
    with pytest.raises(UserError, match="^the model was trained without labels$"):
        without.sample(1, label=0)
    with pytest.raises(UserError, match="^the model was trained without labels$"):
        _ = without.labels
    z = np.zeros((1000, 2), "float32")
    many = mixture.fit(z, np.arange(1000), np.ones(2))
    with pytest.raises(UserError, match="0, 1, .*, 9, ..., 999$"):
        many.sample(1, label=1000)


def test_no_mean_is_of_fewer_than_ten_images():
    # Some codes lie far from all others: k-means gives each of them a mean of its own.
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3000, 6)) * np.where(rng.random((3000, 1)) < 0.05, 50, 1)
    labels = np.minimum(
        rng.integers(4, size=3000), 2
    )  # the last has half of the images
    fitted = mixture.fit(z.astype("float32"), labels, np.ones(6))
    images = np.round(fitted.shares * len(z))
    assert images.sum() == len(z)
    assert images.min() >= 10
    for label in range(3):
        count = np.sum(fitted.mean_labels == label)
        assert 3 <= count <= np.sum(labels == label) // mixture.IMAGES_PER_MEAN


@pytest.mark.parametrize(
    ("images", "labels"),
    [(1, None), (20, None), (1, 1), (7, 2), (500, 40), (1000, 1000), (2000, 3)],
)
def test_few_images_and_many_labels_work(images, labels):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(images, 20)).astype("float32")
    image_labels = None
    if labels is not None:
        image_labels = (
            np.sort(np.arange(images) % labels) - 1
        )  # any integers are labels
    fitted = mixture.fit(z, image_labels, np.ones(20))
    assert fitted.shares.sum() == pytest.approx(1)
    drawn = fitted.sample(30)
    assert drawn.shape == (30, 20) and np.all(np.isfinite(drawn))
    if labels is not None:
        assert fitted.labels == list(range(-1, labels - 1))
        assert np.all(np.isfinite(fitted.sample(3, label=labels - 2)))


def test_many_images_without_labels_have_no_more_means_than_the_limit():
    z = np.random.default_rng(0).normal(size=(30_000, 20)).astype("float32")
    assert 500 < len(mixture.fit(z, None, np.ones(20)).means) <= mixture.MOST_MEANS


def test_images_that_are_all_alike_work():
    z = np.ones((300, 4), "float32")
    fitted = mixture.fit(z, np.arange(300) % 2, np.ones(4))
    np.testing.assert_allclose(fitted.sample(5, temperature=1.0), 1, atol=1e-5)


@pytest.mark.parametrize("size", [784, 3072, 49_152])
def test_memory_and_file_are_bounded(size):
    chosen = mixture.images_to_fit(100_000, size)
    assert len(set(chosen.tolist())) == len(chosen) <= 40_000
    assert len(chosen) * size * 4 <= 126e6
    assert len(mixture.images_to_fit(300, size)) == 300
    with_means = len(chosen) // mixture.IMAGES_PER_MEAN
    with_axes = len(chosen) // mixture.IMAGES_PER_AXIS
    assert (with_means + with_axes) * size * 4 <= 16e6


def test_every_label_is_among_the_images_to_fit():
    """Also where few of many images are encoded, as of large images."""
    labels = np.repeat(np.arange(200), 10)
    chosen = mixture.images_to_fit(2000, 128 * 128 * 3, labels)
    assert set(labels[chosen]) == set(range(200))
    assert len(set(chosen.tolist())) == len(chosen) < 700
    # Where every label is there anyway, the choice is as without labels.
    labels = np.arange(60_000) % 10
    with_labels = mixture.images_to_fit(60_000, 784, labels)
    np.testing.assert_array_equal(with_labels, mixture.images_to_fit(60_000, 784))
