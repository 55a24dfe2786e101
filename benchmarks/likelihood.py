"""What is a likelihood worth?  python benchmarks/likelihood.py [models]

Prints the test log-likelihood of each model beside that of a baseline without any network: a
table of 256 counts for each pixel of the training images, as if pixels were independent.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

import nice
from support import data


def histogram_log_likelihood(training, images, unseen=0.1):
    """log q(x) of images under a histogram for each pixel, for x = (pixel + u) / 256.

    Args:
        unseen: added to every count, so that a level that no training image has is not
            impossible.

    Returns:
        An array of nats, one an image: log(256 * share of the level) summed over the pixels.
    """
    training, images = (x.reshape(len(x), -1) for x in (training, images))
    counts = np.stack([np.bincount(pixel, minlength=256) for pixel in training.T]) + unseen
    logs = np.log(256 * counts / counts.sum(axis=1, keepdims=True))
    return logs[np.arange(images.shape[1]), images].sum(axis=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--data", default=data.MNIST)
    args = parser.parse_args()
    x_train, x_test, _ = data.load_images(args.data)
    nats = histogram_log_likelihood(x_train[: len(x_train) * 5 // 6], x_test)
    error = nats.std() / np.sqrt(len(nats))
    dimensions = x_test[0].size
    bits = (np.log(256) - nats.mean() / dimensions) / np.log(2)
    print(
        f"256 counts a pixel, no network: {nats.mean():.2f} ± {error:.2f} nats, {bits:.3f} bits/dim"
    )
    for path in args.models:
        print(f"{path}: {nice.describe_likelihood(nice.load_encoder(path), x_test)}")


if __name__ == "__main__":
    main()
