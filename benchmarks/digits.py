"""How good are the digits?  python -m benchmarks.digits output/nice.keras [more models]

A small convolutional network, trained here on MNIST's labels, is the judge. For 10,000
drawn digits, rounded to grey levels as a file holds them, it gives

    distance     the squared Fréchet distance between Gaussians fitted to its last 128
                 features of the drawn and of the real digits; lower is better
    recognised   the share of digits that it takes for some class with more than 0.9
    nearest      the median distance to the nearest training image (grey levels, root
                 mean square)

It is this repository's own: do not compare its distances with anybody's FID.
"""

from support import command_line, data, devices, mixture
from support.pictures import TEMPERATURE

import nice
from examples import denoise  # which also defines the steps of its models

import sys

import keras
import numpy as np

COUNT = 10_000  # digits to draw, and images to hold back


def train_judge(images, labels):
    """Train a network to read digits.

    Args:
        images: in grey levels, (n, 28, 28).
        labels: the digits, (n,).

    Returns:
        A model: images -> 128 features, and the probabilities of 10 classes.
    """
    keras.utils.set_random_seed(0)
    image = keras.Input((28, 28))
    h = keras.layers.Reshape((28, 28, 1))(image)
    h = h / 255
    options = {"padding": "same", "activation": "relu", "data_format": "channels_last"}
    h = keras.layers.Conv2D(16, 5, strides=2, **options)(h)
    h = keras.layers.Conv2D(32, 3, **options)(h)
    h = keras.layers.MaxPooling2D(data_format="channels_last")(h)
    h = keras.layers.Conv2D(64, 3, **options)(h)
    h = keras.layers.Flatten()(h)
    features = keras.layers.Dense(128, "relu")(h)
    classes = keras.layers.Dense(10, "softmax")(keras.layers.Dropout(0.5)(features))
    judge = keras.Model(image, classes)
    epochs = 2
    batch_size = 128
    steps = epochs * len(images) // batch_size
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    judge.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    judge.fit(images, labels, batch_size=batch_size, epochs=epochs, verbose=0)
    return keras.Model(image, [features, classes])


def look(judge, images):
    """Features (n, 128) and probabilities (n, 10) of images, as the judge sees them."""
    return judge.predict(images.astype("float32"), batch_size=1000, verbose=0)


def frechet(a, b):
    """The squared Fréchet distance between rows a (n, D) and b (m, D).

    It is that of Gaussians with their means and covariances A and B:
    |mean of a - mean of b|^2 + tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2.
    """
    a = a.astype("float64")
    b = b.astype("float64")
    covariance_a = np.cov(a.T)
    covariance_b = np.cov(b.T)
    product = square_root(covariance_a) @ square_root(covariance_b)
    cross = np.linalg.svd(product, compute_uv=False).sum()  # the last trace
    shift = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    return shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross


def square_root(matrix):
    """The square root of a covariance matrix."""
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, 0)  # rounding leaves some a little below
    return vectors * np.sqrt(values) @ vectors.T


def nearest(images, training):
    """The root mean square distance of each image to the nearest training image."""
    a = images.reshape(len(images), -1).astype("float32")
    b = training.reshape(len(training), -1).astype("float32")
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * a @ b.T
    smallest = np.maximum(squares.min(axis=1), 0)
    return np.sqrt(smallest / a.shape[1])


def fit_pixels(images, labels):
    """Fit to pixels, without a flow, the same mixture as a model has of its codes."""
    chosen = mixture.images_to_fit(len(images), 784, labels)
    pixels = images[chosen].reshape(-1, 784).astype("float32")
    return mixture.fit(pixels, labels[chosen], sigma=np.ones(784))


@command_line.program("benchmarks.digits")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("models", nargs="*", help="files of nice.py")
    add(
        "--temperatures",
        nargs="+",
        type=command_line.not_negative_real,
        default=[TEMPERATURE],
        help="how widely codes are spread",
    )
    add("--held-out", action="store_true", help="compare with training images")
    add(
        "--denoise",
        type=command_line.not_negative_real,
        help="take noise of so many grey levels off the prior's draws, too",
    )
    args = parser.parse_args(argv)
    (x_train, y_train), (x_test, y_test) = data.load()
    held = x_train[-COUNT:]
    x_train = x_train[:-COUNT]
    y_train = y_train[:-COUNT]
    judge = train_judge(x_train, y_train)
    _, classes = look(judge, x_test)
    right = np.mean(classes.argmax(axis=1) == y_test)
    device = devices.describe()
    print(f"{device}; the judge reads {right:.2%} of the test images rightly")

    compared = held if args.held_out else x_test
    real, _ = look(judge, compared)

    def row(name, images):
        features, classes = look(judge, images)
        distance = frechet(features, real)
        recognised = np.mean(classes.max(axis=1) > 0.9)
        near = np.median(nearest(images[:500], x_train))
        cells = f"{distance:.1f} | {recognised:.3f} | {near:.1f}"
        print(f"| {name} | {cells} |", flush=True)

    print("\n| drawn from | distance | recognised | nearest |\n|---|---|---|---|")
    row("training images", x_train[:COUNT])
    if not args.held_out:
        row("training images held back", held)
    pixels = fit_pixels(x_train, y_train)
    for temperature in args.temperatures:
        drawn = pixels.sample(COUNT, temperature).reshape(-1, 28, 28)
        drawn = nice.to_pixels(drawn, noise=0)
        row(f"no flow, the same mixture of pixels, T = {temperature:g}", drawn)
    for path in args.models:
        model = nice.load(path)
        sources = ["prior"]
        if model.mixture is not None:
            sources.append("mixture")
        for source in sources:
            for temperature in args.temperatures:
                drawn = model.sample(COUNT, temperature, source=source)
                row(f"{path}: {source}, T = {temperature:g}", drawn)
        if args.denoise is None:
            continue
        for temperature in args.temperatures:
            drawn = model.decode(model.sample_codes(COUNT, temperature))
            cleaned = denoise.denoise(model, drawn, args.denoise)
            row(
                f"{path}: prior, T = {temperature:g}, cleaned",
                nice.to_pixels(cleaned, model.noise),
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
