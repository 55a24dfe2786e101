"""What is a likelihood worth?  python benchmarks/likelihood.py [models]

Prints the test log-likelihood of each model beside two baselines that know nothing of
neighbouring pixels: a table of 256 counts for each pixel of the training images, and the
learned prior (`MixturePrior`) on the pixels themselves. Then each model's again with the prior
in place of its own, fitted to the codes of its training images; the couplings stay as they are.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from support import startup  # isort: skip  (first: programs start quietly, before Keras)

import keras
import numpy as np

import nice
from layers import DiagonalScaling, GreyLevels, MixturePrior, UniformNoise
from support import backends, data
from support.batches import Batches


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


def without_couplings(image_shape):
    """An encoder whose codes are the pixels, with noise."""
    image = keras.Input(image_shape, dtype="float32")
    x = keras.layers.Reshape((math.prod(image_shape),), dtype="float32")(image)
    x = GreyLevels(256, name="grey_levels")(UniformNoise(0, 1, name="noise")(x))
    return keras.Model(image, DiagonalScaling(trainable=False, name="scaling")(x))


def with_mixture(encoder, images, prior, epochs):
    """The same couplings with a `MixturePrior` fitted to the images' codes: a new encoder."""
    z = DiagonalScaling(trainable=False, name="scaling")(encoder.get_layer("scaling").input)
    model = keras.Model(encoder.input, prior(z), name="encoder")  # the widths are in the prior
    for layer in model.layers:
        layer.trainable = layer is prior
    batches = Batches(images, batch_size=200)
    nice.start_from_data(model, batches)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * len(batches))
    model.compile(keras.optimizers.Adam(rate))
    losses = model.fit(batches.feed(), epochs=epochs, verbose=0).history["loss"]
    print(f"training log-likelihood, in the last epoch: {-losses[-1]:.2f} nats", flush=True)
    return keras.Model(model.input, model.output, name="encoder")  # without the optimiser


@startup.program("likelihood.py")
def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--data", default=data.MNIST)
    parser.add_argument("--components", type=int, default=16, help="logistics in each dimension")
    parser.add_argument("--groups", type=int, default=1, help="of images, see MixturePrior")
    parser.add_argument("--epochs", type=int, default=4, help="of each fit")
    parser.add_argument("--save", type=Path, help="folder for the models with their fitted prior")
    args = parser.parse_args(argv)
    x_train, x_test, _ = data.load_images(args.data)
    x_train = x_train[: len(x_train) * 5 // 6]
    print(backends.describe_device())
    nats = histogram_log_likelihood(x_train, x_test)
    error = nats.std() / np.sqrt(len(nats))
    bits = (np.log(256) - nats.mean() / x_test[0].size) / np.log(2)
    line = f"test log-likelihood: {nats.mean():.2f} ± {error:.2f} nats, {bits:.3f} bits/dim"
    print(f"256 counts a pixel, no network: {line}")

    keras.utils.set_random_seed(0)
    models = {"the mixture alone, no network": without_couplings(x_test.shape[1:])}
    for path in args.models:
        models[path] = nice.load_encoder(path)
        print(f"{path}: {nice.describe_likelihood(models[path], x_test)}", flush=True)
    for name, encoder in models.items():
        prior = MixturePrior(args.components, args.groups, name="prior")
        fitted = with_mixture(encoder, x_train, prior, args.epochs)
        line = nice.describe_likelihood(fitted, x_test)
        print(f"{name}, mixture fitted: {line}", flush=True)
        if args.save and name in args.models:
            args.save.mkdir(parents=True, exist_ok=True)
            fitted.save(args.save / f"{name.parent.name}.keras")


if __name__ == "__main__":
    sys.exit(main())
