"""Where the codes of images are: a mixture of Gaussians, fitted after training.

All is NumPy: arrays in, arrays out.
"""

from support.errors import UserError

import numpy as np

MOST_IMAGES = 40_000  # whose codes are enough to fit to; 125 MB for MNIST
MOST_STYLES = 100  # of all labels together
IMAGES_A_STYLE = 100  # at least, on average
AXES = 24


class Styles:
    """A mixture of low-rank Gaussians.

    A style is a cluster of the codes of one label. It has a mean, and some axes: the
    directions in which its codes vary most, each as long as one standard deviation. A
    draw chooses a style, and then

        z = mean + temperature * (g_1 axis_1 + g_2 axis_2 + ...),   g ~ N(0, 1).

    Args:
        shares: of the images in each style, (m,).
        means: (m, D).
        axes: (m, axes, D).
        mean_labels: the label of each style, (m,), or None without labels.
    """

    def __init__(self, shares, means, axes, mean_labels=None):
        self.shares = shares
        self.means = means
        self.axes = axes
        self.mean_labels = mean_labels

    def arrays(self):
        """The arguments that make these styles again: names and arrays."""
        arrays = {"shares": self.shares, "means": self.means, "axes": self.axes}
        if self.mean_labels is not None:
            arrays["mean_labels"] = self.mean_labels
        return arrays

    @property
    def labels(self):
        """The labels that can be drawn, sorted: a list of integers."""
        if self.mean_labels is None:
            raise UserError("the model was trained without labels")
        return np.unique(self.mean_labels).tolist()

    def sample(self, count, temperature=0.8, seed=0, label=None):
        """Draw codes, all of one label if it is given: a float32 array (count, D).

        Raises:
            UserError: there is no such label.
        """
        shares = self.shares.astype("float32")
        if label is not None:
            shares = shares * self.has_label(label)
        rng = np.random.default_rng(seed)
        p = shares / shares.sum(dtype="float64")
        chosen = rng.choice(len(p), count, p=p)
        z = self.means[chosen]
        g = temperature * rng.normal(size=(count, self.axes.shape[1]))
        for style in np.unique(chosen):
            rows = chosen == style
            z[rows] += g[rows] @ self.axes[style]
        return z

    def has_label(self, label):
        """Which means are of this label: booleans (m,)."""
        if isinstance(label, bool) or not isinstance(label, (int, np.integer)):
            kind = type(label).__name__
            raise UserError(f"label {label!r} is a {kind}; labels are integers")
        if label not in self.labels:
            known = ", ".join(str(one) for one in self.labels)
            raise UserError(f"no label {label}: the model has {known}")
        return self.mean_labels == label


def fit(z, labels, sigma):
    """Fit styles to the codes of images.

    Args:
        z: codes, (n, D).
        labels: an integer for each, (n,), or None.
        sigma: width of each dimension in units of x, (D,). Clusters are found in these
            units: in z mere noise weighs as much as a digit.
    """
    rng = np.random.default_rng(0)
    h = sigma * z
    groups = {None: h}
    if labels is not None:
        groups = {label: h[labels == label] for label in np.unique(labels)}
    most = min(MOST_STYLES, len(h) // IMAGES_A_STYLE)
    styles_a_label = max(1, most // len(groups))
    largest = 2_000_000 // (h.shape[1] * len(groups) * styles_a_label) - 1
    count = max(1, min(AXES, h.shape[1], largest))
    clusters = []
    mean_labels = []
    for label, rows in groups.items():
        found = k_means(rows, styles_a_label, rng)
        clusters += found
        mean_labels += [label] * len(found)
    means = np.stack([rows.mean(axis=0) for rows in clusters]) / sigma
    axes = np.stack([principal_axes(rows, count, rng) for rows in clusters]) / sigma
    return Styles(
        shares=np.array([len(rows) / len(z) for rows in clusters], "float32"),
        means=means.astype("float32"),
        axes=axes.astype("float32"),
        mean_labels=None if labels is None else np.array(mean_labels),
    )


def k_means(rows, count, rng, rounds=20):
    """Cluster the rows of an array: a list of at most `count` arrays, none empty."""
    means = rows[rng.permutation(len(rows))[:count]]
    for _ in range(rounds):
        squares = np.sum(means**2, axis=1) - 2 * rows @ means.T  # but for rows**2
        nearest = np.argmin(squares, axis=1)
        groups = [rows[nearest == k] for k in np.unique(nearest)]
        means = np.stack([group.mean(axis=0) for group in groups])
    return groups


def principal_axes(rows, count, rng, rounds=6):
    """The directions in which rows vary most, a deviation long: (count, D)."""
    rows = rows - rows.mean(axis=0)
    basis = rng.normal(size=(rows.shape[1], count)).astype("float32")
    for _ in range(
        rounds
    ):  # subspace iteration: times the covariance, orthonormal again
        basis, _ = np.linalg.qr(rows.T @ (rows @ basis))
    projected = rows @ basis
    variances, turn = np.linalg.eigh(projected.T @ projected / len(rows))
    lengths = np.sqrt(np.maximum(variances, 0))
    return (lengths * (basis @ turn)).T[::-1]
