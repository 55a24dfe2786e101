"""Where the codes of images are: a mixture of Gaussians, to draw new codes from.

A prior knows nothing of single digits: codes drawn from it often decode to strokes
that are no digit. The codes of the training images say where the digits are. Each label
has some means, each the average of ten codes or more if the label has as many, and
axes, the directions in which its codes vary most about their nearest means. A
*component* of the mixture is one mean with the axes of its label. NumPy only.
"""

from support.errors import UserError

import numbers

import numpy as np

# The codes that are fitted are at most 125 MB of float32: 40,000 images of 784 values.
MOST_NUMBERS = 40_000 * 784
IMAGES_PER_MEAN = 40  # chosen on held-out digits, as is MOST_AXES
MOST_MEANS = 600  # of one label: the time of the fit grows with it
MOST_AXES = 40  # of one label
IMAGES_PER_AXIS = 10  # of an average label, so few images have few axes
FEWEST_IMAGES = 10  # of a mean, so that no mean is nearly a copy of one image
NO_LABEL = 0  # stands for the label of all images where there are no labels


class Mixture:
    """A mixture of Gaussians over codes, whose axes are common to all means of a label.

    Args:
        means: array (m, D), the means, in units of z.
        shares: array (m,), the probability of each mean. They sum to 1.
        axes: array (labels, axes, D) in the order of `labels`, in units of z. Each axis
            is as long as one standard deviation. Without labels: (1, axes, D).
        mean_labels: integers (m,), the label of each mean; None without labels.
    """

    def __init__(self, means, shares, axes, mean_labels=None):
        self.means = np.asarray(means, "float32")
        self.shares = np.asarray(shares, "float32")
        self.axes = np.asarray(axes, "float32")
        self.mean_labels = None
        if mean_labels is not None:
            self.mean_labels = np.asarray(mean_labels, "int64")

    @property
    def labels(self):
        """The labels in ascending order, a list of integers.

        Raises:
            UserError: the model was trained without labels.
        """
        if self.mean_labels is None:
            raise UserError("the model was trained without labels")
        return np.unique(self.mean_labels).tolist()

    def arrays(self):
        """The arrays by name, to save them: `Mixture(**arrays)` is the way back."""
        arrays = {"means": self.means, "shares": self.shares, "axes": self.axes}
        if self.mean_labels is not None:
            arrays["mean_labels"] = self.mean_labels
        return arrays

    def axes_of(self, mean):
        """The axes (axes, D) of the label of a mean, given by its index.

        An array of indices (n,) gives an array (n, axes, D).
        """
        return self.axes[self._groups()[mean]]

    def _groups(self):
        """For each mean the index of its label, which is the index of its axes."""
        if self.mean_labels is None:
            return np.zeros(len(self.means), "int64")
        return np.searchsorted(self.labels, self.mean_labels)

    def nearest(self, z, sigma):
        """The index of the mean nearest to each code, measured in units of x.

        Args:
            z: codes, array (n, D).
            sigma: the width of each dimension, array (D,): sigma * z is in units of x.
        """
        return nearest_rows(sigma * z, sigma * self.means)

    def sample(self, count, temperature=1.0, seed=0, label=None):
        """Draw codes: a float32 array (count, D).

        A draw chooses a mean by its share, then adds to it, along each axis, a normal
        number times the axis and the temperature.

        Args:
            label: draw codes of this label only.

        Raises:
            UserError: the model does not know the label.
        """
        probabilities = self.shares.astype("float64")
        if label is not None:
            self.check_label(label)
            probabilities[self.mean_labels != label] = 0.0
        probabilities /= probabilities.sum()

        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(self.means), count, p=probabilities)
        amounts = temperature * rng.normal(size=(count, self.axes.shape[1]))
        amounts = amounts.astype("float32")

        z = self.means[chosen]
        groups = self._groups()[chosen]
        for group in np.unique(groups):
            rows = groups == group
            z[rows] += amounts[rows] @ self.axes[group]
        return z

    def check_label(self, label):
        """Raise UserError unless some mean has this label."""
        labels = self.labels
        if isinstance(label, bool) or not isinstance(label, numbers.Integral):
            kind = type(label).__name__
            raise UserError(f"label {label!r} is a {kind}; labels are integers")
        if label not in labels:
            known = [str(one) for one in labels]
            if len(known) > 20:
                known = [*known[:10], "...", known[-1]]
            raise UserError(f"no label {label}: the model has {', '.join(known)}")


def images_to_fit(count, size, labels=None, seed=0):
    """Choose the training images whose codes are fitted, at random if not all of them.

    Args:
        count: number of training images.
        size: number of values of an image.
        labels: integers (count,), or None.

    Returns:
        The indices of the images. Their codes are at most MOST_NUMBERS values, but each
        label has at least one image.
    """
    most = max(1, MOST_NUMBERS // size)
    order = np.random.default_rng(seed).permutation(count)
    chosen = np.arange(count) < most
    if labels is not None:
        _, first_places = np.unique(labels[order], return_index=True)
        chosen[first_places] = True
    return order[chosen]


def fit(z, labels, sigma, images_per_mean=IMAGES_PER_MEAN, most_axes=MOST_AXES, seed=0):
    """Fit a mixture to the codes of images.

    A label has one mean for every `images_per_mean` of its images, or somewhat fewer:
    no mean is of fewer than ten images, unless its label has fewer. There are at most
    600 means of a label, which matters where there are no labels. A label has one
    axis for every ten images of an average label, at most `most_axes`. It has at least
    one of each.

    Args:
        z: codes, array (n, D).
        labels: integers (n,), or None: then the images are as if of one label.
        sigma: the width of each dimension, array (D,): sigma * z is in units of x.

    Returns:
        The fitted `Mixture`.
    """
    # Distances are those of sigma * z: in z, mere noise weighs as much as a digit.
    sigma = np.asarray(sigma, "float32")
    h = sigma * z
    image_labels = labels
    if labels is None:
        image_labels = np.full(len(z), NO_LABEL)
    known = np.unique(image_labels)

    axis_count = len(z) // len(known) // IMAGES_PER_AXIS
    axis_count = min(axis_count, most_axes, z.shape[1])
    axis_count = max(axis_count, 1)

    rng = np.random.default_rng(seed)
    means = []
    sizes = []  # numbers of images
    mean_labels = []
    axes = []
    for label in known:
        rows = h[image_labels == label]
        per_mean = max(images_per_mean, FEWEST_IMAGES)
        mean_count = min(len(rows) // per_mean, MOST_MEANS)
        mean_count = max(mean_count, 1)
        label_means, nearest = k_means(rows, mean_count, rng)
        means.append(label_means)
        sizes.append(np.bincount(nearest))
        mean_labels.append(np.full(len(label_means), label))
        axes.append(principal_axes(rows - label_means[nearest], axis_count, rng))

    mixture = Mixture(
        means=np.concatenate(means) / sigma,
        shares=np.concatenate(sizes) / len(z),
        axes=np.stack(axes) / sigma,
    )
    if labels is not None:
        mixture.mean_labels = np.concatenate(mean_labels)
    return mixture


def k_means(rows, count, rng, rounds=10):
    """Find at most `count` means of the rows of an array (n, D), by Lloyd's algorithm.

    Returns:
        The means (m, D), and the index of each row's mean (n,). A mean is the average
        of its rows: at least FEWEST_IMAGES of them, or all if there are fewer.
    """
    # A mean that began at an unusual image would keep that one to itself. So all begin
    # close to the average of all images, each on its way to another image.
    average = rows.mean(axis=0)
    means = average + 0.1 * (rows[rng.permutation(len(rows))[:count]] - average)
    for _ in range(rounds):
        nearest = nearest_rows(rows, means)
        means = averages(rows, nearest)

    # A mean of too few images is dropped, and its images join the nearest others. These
    # lose none by that, so that none becomes too small in turn.
    sizes = np.bincount(nearest_rows(rows, means), minlength=len(means))
    means = means[sizes >= min(FEWEST_IMAGES, len(rows))]
    nearest = nearest_rows(rows, means)
    return averages(rows, nearest), nearest


def nearest_rows(rows, others, batch=1000):
    """For each row of an array (n, D), the index of the nearest of others (m, D)."""
    # |a - b|^2 = |a|^2 + |b|^2 - 2 a b, and |a|^2 is the same for all b.
    squares = np.sum(others**2, axis=1)
    nearest = [np.zeros(0, "int64")]
    for start in range(0, len(rows), batch):
        products = rows[start : start + batch] @ others.T
        nearest.append(np.argmin(squares - 2 * products, axis=1))
    return np.concatenate(nearest)


def averages(rows, groups):
    """The average of each group of rows, given the group of each row."""
    return np.stack([rows[groups == group].mean(axis=0) for group in np.unique(groups)])


def principal_axes(rows, count, rng, rounds=6):
    """The directions in which rows vary most, each as long as one standard deviation.

    Args:
        rows: array (n, D), of average 0.
        count: number of axes, at most D.

    Returns:
        An array (count, D), the longest axis first.
    """
    # Subspace iteration: multiply by the covariance, make orthonormal, and again. It
    # needs no matrix (D, D), which would be large for large images.
    basis = rng.normal(size=(rows.shape[1], count)).astype("float32")
    for _ in range(rounds):
        basis, _ = np.linalg.qr(rows.T @ (rows @ basis))
    # Within that subspace, the eigenvectors of the small covariance are the axes.
    coordinates = rows @ basis
    variances, rotation = np.linalg.eigh(coordinates.T @ coordinates / len(rows))
    deviations = np.sqrt(np.maximum(variances, 0))
    axes = (basis @ rotation * deviations).T
    return axes[::-1]  # `eigh` has the smallest variance first
