"""How good are the digits?  python benchmarks/digits.py output/nice.keras [more models]

A small convolutional network, trained here on MNIST's labels, is the judge. For 10,000 drawn
digits it gives, beside the same for real ones,

    distance     the squared Fréchet distance between Gaussians fitted to the judge's last 128
                 features of drawn and of real test images; lower is better
    recognised   the share of digits that the judge takes for some class with more than 0.9
    entropy      of the classes that it sees, in nats; ten equally frequent ones have 2.30
    nearest      the median distance (grey levels, root mean square) to the nearest training image

It judges what a file would hold: clipped to 0...255 and rounded. It is this repository's own:
do not compare its distances with anybody's FID.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from support import startup  # isort: skip  (first: programs start quietly, before Keras)

import keras
import numpy as np

import nice
import sample
from layers import CodeSampler
from support import backends, data, pictures

COUNT = 10000


def train_judge(images, labels, seed=0):
    """Train a network to read digits: from grey levels to (128 features, 10 probabilities)."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((28, 28))
    h = keras.layers.Reshape((28, 28, 1))(image) / 255
    convolution = {"padding": "same", "activation": "relu", "data_format": "channels_last"}
    h = keras.layers.Conv2D(16, 5, strides=2, **convolution)(h)
    h = keras.layers.Conv2D(32, 3, **convolution)(h)
    h = keras.layers.MaxPooling2D(data_format="channels_last")(h)
    h = keras.layers.Conv2D(64, 3, **convolution)(h)
    features = keras.layers.Dense(128, "relu")(keras.layers.Reshape((7 * 7 * 64,))(h))
    classes = keras.layers.Dense(10, "softmax")(keras.layers.Dropout(0.5)(features))
    judge = keras.Model(image, classes)
    epochs = 2
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * (len(images) // 128 + 1))
    judge.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    judge.fit(images, labels, batch_size=128, epochs=epochs, verbose=0)
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
    """For each image the nearest training image: root mean square distances, and which."""
    a, b = (x.reshape(len(x), -1).astype("float32") for x in (images, training))
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares.min(axis=1), 0) / a.shape[1]), squares.argmin(axis=1)


def draw_nearest(path, images, training):
    """Draw each image above the training image nearest to it."""
    images = pictures.to_pixels(images)
    both = np.stack([images, training[nearest(images, training)[1]]])
    pictures.write_png(path, pictures.Sheet(both, row_labels=["drawn", "nearest"]).picture())


class Judge:
    """A trained judge, and what it compares with."""

    def __init__(self, x_train, y_train, reference):
        self.training = x_train
        self.network = train_judge(x_train, y_train)
        self.reference, _ = self.look(reference)

    def look(self, images):
        return self.network.predict(images.astype("float32"), batch_size=1000, verbose=0)

    def row(self, name, images):
        """Judge images in grey levels, and print a row of the table."""
        images = pictures.to_pixels(images)
        features, classes = self.look(images)
        share = classes.mean(axis=0)
        distance = frechet(features, self.reference)
        recognised = np.mean(classes.max(axis=1) > 0.9)
        entropy = -np.sum(share * np.log(share + 1e-12))
        far = np.median(nearest(images[:500], self.training)[0])
        print(
            f"| {name} | {distance:.1f} | {recognised:.3f} | {entropy:.2f} | {far:.1f} |",
            flush=True,
        )


def judge_halfway(judge, path, encoder, images, labels, seed, count=4000):
    """Judge what lies halfway between two images of different classes."""
    sheet = sample.interpolate(encoder, images, labels, rows=count, columns=3, seed=seed)
    lines, circles = sheet.images[:count], sheet.images[count:]
    judge.row(f"{path}: halfway on a straight line", lines[:, 1])
    judge.row(f"{path}: halfway on a great circle", circles[:, 1])
    judge.row("the mean of the same two images, no flow", lines[:, [0, 2]].mean(axis=1))


@startup.program("digits.py")
def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.6, 0.8, 1.0])
    parser.add_argument("--held-out", action="store_true", help="judge by training images")
    parser.add_argument(
        "--nearest", type=Path, help="draw the last row above its nearest neighbours"
    )
    parser.add_argument("--halfway", action="store_true", help="judge `interpolate` as well")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    arrays = data.read_arrays(data.MNIST, ("x_train", "y_train", "x_test", "y_test"))
    x_train, y_train = arrays["x_train"][:-COUNT], arrays["y_train"][:-COUNT]
    held, test = arrays["x_train"][-COUNT:], arrays["x_test"]
    print(f"{backends.describe_device()}, seed {args.seed}")
    judge = Judge(x_train, y_train, held if args.held_out else test)
    _, classes = judge.look(test)
    right = np.mean(classes.argmax(axis=1) == arrays["y_test"])
    print(f"the judge reads {right:.2%} of the test images rightly\n")
    print("| drawn from | distance | recognised | entropy | nearest |\n|---|---|---|---|---|")
    judge.row("10,000 training images (the bias)", x_train[:COUNT])
    if not args.held_out:
        judge.row("10,000 training images, held back (the bias)", held)

    pixels = x_train.reshape(len(x_train), -1).astype("float32") / 255
    linear = CodeSampler()
    linear.build((None, pixels.shape[1]))
    linear.fit(lambda count: [pixels[:count]], np.ones(pixels.shape[1], "float32"))
    for temperature in args.temperatures:
        drawn = 255 * linear.sample(COUNT, temperature, args.seed).reshape(-1, 28, 28)
        judge.row(f"no flow, the same mixture of pixels, T = {temperature:g}", drawn)
    for path in args.models:
        encoder = nice.load_encoder(path)
        for name in ("prior", "fitted"):
            if name not in [layer.name for layer in encoder.layers]:
                continue
            for temperature in args.temperatures:
                codes = encoder.get_layer(name).sample(COUNT, temperature, args.seed)
                images = sample.decode(encoder, codes[:, None])[:, 0]
                judge.row(f"{path}: {name}, T = {temperature:g}", images)
        if args.nearest:
            draw_nearest(args.nearest, images[:20], x_train)
        if args.halfway:
            judge_halfway(judge, path, encoder, test, arrays["y_test"], args.seed)


if __name__ == "__main__":
    sys.exit(main())
