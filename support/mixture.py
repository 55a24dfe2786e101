"""Fit Gaussians to data: principal directions, then a mixture in them by EM. NumPy only."""

import math

import numpy as np


def principal_directions(parts, count):
    """The directions in which rows vary most, as `count` orthonormal columns.

    Args:
        parts: the rows, some at a time: arrays (any number, D).
    """
    rows, total, squares = 0, 0.0, 0.0
    for h in parts:
        rows, total, squares = rows + len(h), total + h.sum(axis=0), squares + h.T @ h
    mean = total / rows
    covariance = squares / rows - np.outer(mean, mean)
    _, vectors = np.linalg.eigh(covariance.astype("float64"))  # by rising variance
    return vectors[:, ::-1][:, :count].astype("float32")


def fit_mixture(y, components, rounds=8, borrowed=50, seed=0):
    """Fit Gaussians with full covariances to the rows of y by expectation maximisation.

    Args:
        y: array (rows, d).
        borrowed: every Gaussian's covariance is mixed with the average one, as if it had seen
            that many more rows: small groups keep a sensible shape.

    Returns:
        shares: array (rows, K), how much of each row belongs to each Gaussian.
        covariances: array (K, d, d). The means are those of the rows, weighted by the shares.
    """
    shares = np.eye(components, dtype=y.dtype)[nearest_means(y, components, seed)]
    for _ in range(rounds):
        means, covariances = gaussians(y, shares, borrowed)
        share = shares.mean(axis=0)
        shares = log_gaussians(y, means, covariances)
        shares += np.log(share + 1e-30)
        shares -= shares.max(axis=1, keepdims=True)
        np.exp(shares, out=shares)
        shares /= shares.sum(axis=1, keepdims=True)
    return shares, gaussians(y, shares, borrowed)[1]


def nearest_means(y, count, seed, rounds=10):
    """Group the rows of y around `count` means (k-means); return each row's group."""
    means = y[np.random.default_rng(seed).choice(len(y), count, replace=False)]
    for _ in range(rounds):
        nearest = np.argmin(np.sum(means**2, axis=1) - 2 * y @ means.T, axis=1)
        groups = [y[nearest == k] for k in range(count)]
        means = np.stack([g.mean(axis=0) if len(g) else y[0] for g in groups])
    return nearest


def weighted_means(parts, shares):
    """The mean of the rows in each Gaussian's share of them, (K, D); the rows some at a time."""
    total, start = 0.0, 0
    for rows in parts:
        total = total + shares[start : start + len(rows)].T @ rows
        start += len(rows)
    return total / (shares.sum(axis=0)[:, None] + 1e-6)


def gaussians(y, shares, borrowed):
    """The means and covariances of the rows in each share."""
    means, count = weighted_means([y], shares), shares.sum(axis=0)
    scatter = [(s[:, None] * (y - m)).T @ (y - m) for s, m in zip(shares.T, means, strict=True)]
    average = sum(scatter) / len(y) + 1e-8 * np.eye(y.shape[1], dtype=y.dtype)
    return means, (np.stack(scatter) + borrowed * average) / (count + borrowed)[:, None, None]


def log_gaussians(y, means, covariances):
    """log N(y; mean, covariance) of each row under each Gaussian, (rows, K)."""
    logs = np.empty((len(y), len(means)), y.dtype)
    for k, (mean, root) in enumerate(zip(means, np.linalg.cholesky(covariances), strict=True)):
        standard = (y - mean) @ np.linalg.inv(root).T
        logs[:, k] = -0.5 * np.sum(standard**2, axis=1) - np.sum(np.log(np.diag(root)))
    logs -= y.shape[1] / 2 * math.log(2 * math.pi)
    return logs
