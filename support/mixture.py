"""Fit Gaussians to data: principal directions, then a mixture in them by EM. NumPy only."""

import numpy as np


def principal_directions(h, count):
    """The mean of the rows of h, and the directions in which they vary most, as columns."""
    mean = h.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(h.T, bias=True))  # by rising variance
    return mean, vectors[:, ::-1][:, :count]


def fit_mixture(y, components, rounds=30, borrowed=50, seed=0):
    """Fit Gaussians with full covariances to the rows of y by expectation maximisation.

    Args:
        borrowed: every Gaussian's covariance is mixed with the average one, as if it had seen
            that many more rows: small groups keep a sensible shape.

    Returns:
        weights (K,), means (K, d), covariances (K, d, d).
    """
    rng = np.random.default_rng(seed)
    means = y[rng.choice(len(y), components, replace=False)]
    for _ in range(10):  # k-means, to start from
        nearest = np.argmin(np.sum(means**2, axis=1) - 2 * y @ means.T, axis=1)
        groups = [y[nearest == k] for k in range(components)]
        means = np.stack([g.mean(axis=0) if len(g) else y[0] for g in groups])
    share = np.eye(components)[nearest]  # of each row in each Gaussian
    for _ in range(rounds):
        count = share.sum(axis=0) + 1e-6
        means = share.T @ y / count[:, None]
        scatter = np.stack(
            [(share[:, [k]] * (y - means[k])).T @ (y - means[k]) for k in range(components)]
        )
        average = scatter.sum(axis=0) / len(y)
        covariances = (scatter + borrowed * average) / (count + borrowed)[:, None, None]
        covariances += 1e-8 * np.eye(y.shape[1])
        weights = count / count.sum()
        logs = np.log(weights) + log_gaussians(y, means, covariances)
        share = np.exp(logs - logs.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
    return weights, means, covariances


def log_gaussians(y, means, covariances):
    """log N(y; mean, covariance) of each row under each Gaussian, (rows, K)."""
    roots = np.linalg.cholesky(covariances)
    logs = []
    for mean, root in zip(means, roots, strict=True):
        standard = (y - mean) @ np.linalg.inv(root).T
        logs.append(-0.5 * np.sum(standard**2, axis=1) - np.sum(np.log(np.diag(root))))
    return np.stack(logs, axis=1) - y.shape[1] / 2 * np.log(2 * np.pi)
