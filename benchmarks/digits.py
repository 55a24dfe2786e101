"""How good are the digits?  python -m benchmarks.digits output/nice.keras [more models]

A small convolutional network, trained here on MNIST's labels, is the judge. For 10,000 drawn
digits, rounded to grey levels as a file holds them, it gives

    distance     the squared Fréchet distance between Gaussians fitted to its last 128 features
                 of the drawn and of the real digits; lower is better
    recognised   the share of digits that it takes for some class with more than 0.9
    nearest      the median distance to the nearest training image (grey levels, root mean square)

It is this repository's own: do not compare its distances with anybody's FID.
"""

import argparse

import nice  # isort: skip  (first: it sets up the backends)
import keras
import numpy as np

import sample
from layers import CodeSampler
from support import data, devices

COUNT = 10_000


def train_judge(images, labels):
    """Train a network to read digits: from grey levels to (128 features, 10 probabilities)."""
    keras.utils.set_random_seed(0)
    image = keras.Input((28, 28))
    h = keras.layers.Reshape((28, 28, 1))(image) / 255
    options = {"padding": "same", "activation": "relu", "data_format": "channels_last"}
    h = keras.layers.Conv2D(16, 5, strides=2, **options)(h)
    h = keras.layers.Conv2D(32, 3, **options)(h)
    h = keras.layers.MaxPooling2D(data_format="channels_last")(h)
    h = keras.layers.Conv2D(64, 3, **options)(h)
    features = keras.layers.Dense(128, "relu")(keras.layers.Flatten()(h))
    classes = keras.layers.Dense(10, "softmax")(keras.layers.Dropout(0.5)(features))
    judge = keras.Model(image, classes)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, 2 * len(images) // 128)
    judge.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    judge.fit(images, labels, batch_size=128, epochs=2, verbose=0)
    return keras.Model(image, [features, classes])


def frechet(a, b):
    """The squared Fréchet distance between Gaussians with the rows' means and covariances."""

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T

    a, b = a.astype("float64"), b.astype("float64")
    spread_a, spread_b = np.cov(a.T), np.cov(b.T)
    cross = np.linalg.svd(root(spread_a) @ root(spread_b), compute_uv=False).sum()
    shift = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    return shift + np.trace(spread_a) + np.trace(spread_b) - 2 * cross


def nearest(images, training):
    """The root mean square distance of each image to the nearest training image."""
    a, b = (x.reshape(len(x), -1).astype("float32") for x in (images, training))
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares.min(axis=1), 0) / a.shape[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.8])
    parser.add_argument("--held-out", action="store_true", help="compare with training images")
    args = parser.parse_args()
    (x_train, y_train), (x_test, y_test) = data.load()
    x_train, y_train, held = x_train[:-COUNT], y_train[:-COUNT], x_train[-COUNT:]
    judge = train_judge(x_train, y_train)

    def look(images):
        return judge.predict(images.astype("float32"), batch_size=1000, verbose=0)

    real, _ = look(held if args.held_out else x_test)

    def row(name, images):
        images = np.clip(images, 0, 255) // 1  # as files hold them
        features, classes = look(images)
        distance, recognised = frechet(features, real), np.mean(classes.max(axis=1) > 0.9)
        near = np.median(nearest(images[:500], x_train))
        print(f"| {name} | {distance:.1f} | {recognised:.3f} | {near:.1f} |", flush=True)

    right = np.mean(look(x_test)[1].argmax(axis=1) == y_test)
    print(f"{devices.describe()}; the judge reads {right:.2%} of the test images rightly\n")
    print("| drawn from | distance | recognised | nearest |\n|---|---|---|---|")
    row("training images", x_train[:COUNT])
    if not args.held_out:
        row("training images held back", held)
    pixels = x_train[:40_000].reshape(40_000, -1).astype("float32")
    linear = CodeSampler.fit(pixels, y_train[:40_000], np.ones(784), 10, 24)
    for temperature in args.temperatures:
        drawn = linear.sample(COUNT, temperature).reshape(-1, 28, 28)
        row(f"no flow, the same styles of pixels, T = {temperature:g}", drawn)
    for path in args.models:
        encoder = nice.load_encoder(path)
        for source in ("fitted", "prior"):
            for temperature in args.temperatures:
                images = sample.draw(encoder, COUNT, temperature, source=source)
                row(f"{path}: {source}, T = {temperature:g}", images)


if __name__ == "__main__":
    main()
