"""What is a likelihood worth?  python -m benchmarks.likelihood output/nice.keras [...]

Prints the test log-likelihood of models beside that of a table of counts, which knows
how often each pixel of the training images has each grey level, and nothing of its
neighbours.
"""

from support import command_line, data

import nice

import math
import sys
from pathlib import Path

import numpy as np

LEVELS = 256


def table_log_likelihood(training, images, unseen=0.1):
    """log q(x) of images if their D pixels were independent.

    As for a model, it is a density of x = (grey level + u) / 256, with u uniform from
    0 to 1.

    Args:
        training: the images to count, uint8 (m, height, width).
        images: the images to measure, uint8 (n, height, width).
        unseen: added to every count. Without it a level that no training image has
            would be impossible.

    Returns:
        An array (n,) of nats.
    """
    training = training.reshape(len(training), -1)
    images = images.reshape(len(images), -1)
    counts = [np.bincount(pixel, minlength=LEVELS) for pixel in training.T]
    counts = np.stack(counts) + unseen  # (D, levels)
    shares = counts / counts.sum(axis=1, keepdims=True)
    logs = np.log(LEVELS * shares)  # a level is 1 / LEVELS wide
    pixels = np.arange(len(logs))
    return logs[pixels, images].sum(axis=1)


@command_line.program("benchmarks.likelihood")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, help="files of nice.py")
    args = parser.parse_args(argv)
    (x_train, _), (x_test, _) = data.load()
    nats = table_log_likelihood(x_train[:50_000], x_test)
    mean = nats.mean()
    error = nats.std(ddof=1) / math.sqrt(len(nats))
    size = x_test[0].size
    bits = (math.log(LEVELS) - mean / size) / math.log(2)
    line = f"log-likelihood of {len(nats):,} test images: {mean:.2f} ± {error:.2f} nats"
    print("256 counts a pixel, no network: ", end="")
    print(f"{line}, {bits:.3f} bits per dimension", flush=True)
    for path in args.models:
        model = nice.load(path)
        print(f"{path}: {nice.describe_likelihood(model, x_test)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
