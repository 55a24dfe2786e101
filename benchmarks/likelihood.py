"""What is a likelihood worth?  python -m benchmarks.likelihood output/nice.keras [more models]

Prints the test log-likelihood of models beside that of a table of counts, which knows how often
each pixel of the training images has each grey level, and nothing of its neighbours.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np

import nice
from support import command_line, data


def table_log_likelihood(training, images, unseen=0.1):
    """log q(x) of uint8 images (n, height, width) if their D pixels were independent.

    As for a model, it is a density of x = (grey level + u) / 256, with u uniform from 0 to 1.

    Args:
        unseen: added to every count, or a level that no training image has would be impossible.

    Returns:
        An array (n,) of nats.
    """
    training, images = (x.reshape(len(x), -1) for x in (training, images))
    counts = np.stack([np.bincount(pixel, minlength=256) for pixel in training.T]) + unseen
    logs = np.log(256 * counts / counts.sum(axis=1, keepdims=True))  # (D, 256)
    return logs[np.arange(len(logs)), images].sum(axis=1)


@command_line.program
def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    args = parser.parse_args(argv)
    (x_train, _), (x_test, _) = data.load()
    nats = table_log_likelihood(x_train[:50_000], x_test)
    error = nats.std(ddof=1) / math.sqrt(len(nats))
    bits = (math.log(256) - nats.mean() / x_test[0].size) / math.log(2)
    line = f"log-likelihood of {len(nats):,} test images: {nats.mean():.2f} ± {error:.2f} nats"
    print(f"256 counts a pixel, no network: {line}, {bits:.3f} bits per dimension", flush=True)
    for path in args.models:
        encoder = nice.load_encoder(path)
        print(f"{path}: {nice.describe_likelihood(encoder, x_test)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
