"""Fit Gaussians to data: principal directions, k-means, then EM. NumPy only."""

import itertools

import numpy as np

from support import memory


def principal_directions(parts, count, wide=4096):
    """The directions in which rows vary most, as `count` orthonormal columns.

    Where D is above `wide`, a matrix of D times D would be too much: then of the first 5 parts
    alone (and if they have fewer rows than `count`, the columns that are left are 0).

    Args:
        parts: the rows, some at a time: arrays (any number, D).
    """
    parts = iter(parts)
    first = next(parts)
    if first.shape[1] > wide:
        few = np.concatenate([first, *itertools.islice(parts, 4)])
        _, _, found = np.linalg.svd(few - few.mean(axis=0), full_matrices=False)
        return np.pad(found[:count], ((0, max(0, count - len(found))), (0, 0))).T
    rows, total, squares = 0, 0.0, 0.0
    origin = first.mean(axis=0)  # squares of small numbers are exact
    for h in itertools.chain([first], parts):
        h = h - origin
        rows, total = rows + len(h), total + h.sum(axis=0)
        squares += h.T @ h  # in place, as it is large
    mean = total / rows
    covariance = (squares / rows - np.outer(mean, mean)).astype("float64")
    _, vectors = np.linalg.eigh(covariance)  # by rising variance
    return vectors[:, ::-1][:, :count].astype("float32")


def fit_mixture(y, components, leading=60, rounds=6):
    """Fit Gaussians with full covariances to the rows of y by expectation maximisation.

    Which Gaussian a row belongs to is decided by the `leading` columns alone: all (120, for
    codes) would take three times as long, and change little.

    Args:
        y: array (rows, d), which may be in half precision: it is read block by block.

    Returns:
        shares: array (K,), of all rows.
        means: array (K, d).
        roots: of the covariances, the lower triangular ones of Cholesky: array (K, d, d).
        belonging: a function from rows of y to each one's share in each Gaussian, (rows, K).
    """
    x = y[:, :leading]

    def belonging(some):
        return responsibilities(some[:, :leading], *gaussians)

    centres, one = k_means(x, components), np.eye(components, dtype="float32")
    gaussians = fit_gaussians(x, components, lambda some: one[nearest(some, centres)])
    for _ in range(rounds):
        gaussians = fit_gaussians(x, components, belonging)  # that is, by the ones before
    return *fit_gaussians(y, components, belonging), belonging


def gather(parts, rows, dimensions):
    """Put parts with rows together, at most so many: in half precision, to take less memory."""
    y = np.frombuffer(memory.block(2 * rows * dimensions), "float16").reshape(rows, dimensions)
    filled = 0
    for part in parts:
        y[filled : filled + len(part)] = part
        filled += len(part)
    memory.trim()  # of what the parts took
    return y[:filled]


def k_means(y, count, rounds=10, seed=0):
    """Group the rows of y; return the mean of each group, (count, d)."""
    first = np.random.default_rng(seed).choice(len(y), count, replace=len(y) < count)
    means, one = y[first].astype("float32"), np.eye(count, dtype="float32")
    for _ in range(rounds):
        rows, total = 1e-6, 0.0  # a group without rows gets 0
        for some in blocks(y):
            member = one[nearest(some, means)]
            rows, total = rows + member.sum(axis=0), total + member.T @ some
        means = total / rows[:, None]
    return means


def nearest(y, means):
    """Which of the means is nearest to each row of y."""
    squares = np.sum(means**2, axis=1)
    return np.concatenate([np.argmin(squares - 2 * some @ means.T, axis=1) for some in blocks(y)])


def blocks(y, size=2000):
    """The rows of y, some at a time: what is worked out of all at once would need much memory."""
    return (y[i : i + size].astype("float32", copy=False) for i in range(0, len(y), size))


def fit_gaussians(y, components, belonging, borrowed=50):
    """Fit a Gaussian to each share of the rows of y.

    Args:
        belonging: a function from some rows of y to their share in each Gaussian, (rows, K).
        borrowed: every Gaussian's covariance is mixed with the average one, as if it had seen
            that many more rows: small groups keep a sensible shape.

    Returns:
        shares, means, roots: as those of `fit_mixture`.
    """
    d, origin = y.shape[1], y.mean(axis=0, dtype="float32")
    count, total = 0.0, 0.0
    matrices = np.zeros((components, d, d), "float32")  # each in place, as they are large
    for some in blocks(y):
        shares, some = belonging(some), some - origin
        count, total = count + shares.sum(axis=0), total + shares.T @ some
        for matrix, share in zip(matrices, shares.T, strict=True):
            matrix += (share[:, None] * some).T @ some
    # Few rows, or rows that repeat, do not vary in some directions: rounding may go below 0 there.
    least = (1e-6 * np.einsum("kii->", matrices) / len(y) + 1e-8) * np.eye(d, dtype="float32")
    means = total / (count[:, None] + 1e-6)
    for matrix, mean, rows in zip(matrices, means, count, strict=True):
        matrix -= rows * np.outer(mean, mean)
    average = matrices.sum(axis=0) / len(y)
    for matrix, rows in zip(matrices, count, strict=True):
        matrix[:] = np.linalg.cholesky((matrix + borrowed * average) / (rows + borrowed) + least)
    return count / len(y), origin + means, matrices


def responsibilities(y, shares, means, roots):
    """How much of each row belongs to each Gaussian: array (rows, K), rows adding up to 1."""
    logs = np.empty((len(y), len(means)), y.dtype)
    for k, (mean, root) in enumerate(zip(means, roots, strict=True)):
        standard = (y - mean) @ np.linalg.inv(root).T
        logs[:, k] = -0.5 * np.sum(standard**2, axis=1) - np.sum(np.log(np.diag(root)))
    logs += np.log(shares + 1e-30)
    likely = np.exp(logs - logs.max(axis=1, keepdims=True))
    return likely / likely.sum(axis=1, keepdims=True)


def weighted_means(parts):
    """The mean of the rows in each Gaussian's share of them, and of one average row: (K, D).

    Args:
        parts: pairs of some rows, and their share in each Gaussian.
    """
    count, total = 0.0, 0.0
    for some, shares in parts:
        count, total = count + shares.sum(axis=0), total + shares.T @ some
    return (total + total.sum(axis=0) / count.sum()) / (count[:, None] + 1)
