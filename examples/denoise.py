"""Can a density take noise off?  python -m examples.denoise

Pixels that hardly ever change put spikes into the codes, and training does not make
couplings spread a spike (examples/codes.py). Here images get Gaussian noise that one
can see, sigma grey levels wide. Noise blurs the spikes, so codes follow the prior far
better, and more of the draws from it can be read: noisy ones, like what it has seen.

The flow itself then takes the noise off. If y = x + sigma n is a noisy image, and q(y)
its density, the mean of the clean image given the noisy one is

    E[x | y] = y + sigma^2 d/dy log q(y)     (Tweedie's formula; Robbins 1956).

So a density of noisy images is a denoiser. The gradient is called the score. TarFlow
(Zhai et al., arXiv 2412.06329) draws in this way from a larger flow.

denoise.png shows draws from the prior at T = 1, as drawn and cleaned, of NICE and of
the affine flow (examples/affine.py), and test images, noisy, cleaned, and as they are.
Beside it are the models, and denoise-codes.png: how near codes are to the prior. The
noise of these models is not uniform: measure noisy images with `noise=0`. One step of
sigma^2 is that mean. More steps climb to where q is highest, which is not the mean.
"""

from support import command_line, data, pictures

import nice
from examples import affine, codes

import sys

import keras
import numpy as np
from keras import ops

COUPLINGS = 6  # two more than in affine.py: they are worth more than width is
GRID = 10  # rows and columns of a grid
# Noise has the mean 0 about the middle of a grey level, as in `nice.Batches`.
HALF = 0.5


def add_gaussian_noise(images, sigma, rng):
    """Add HALF and Gaussian noise, sigma grey levels wide: a float32 array."""
    noise = rng.standard_normal(images.shape, "float32")
    return images.astype("float32") + HALF + np.float32(sigma) * noise


class NoisyBatches(nice.Batches):
    """`Batches` with Gaussian noise in place of uniform noise."""

    def __init__(self, images, sigma, seed=0):
        super().__init__(images, noise=0.0, seed=seed)
        self.sigma = sigma

    def __getitem__(self, i):
        (images,) = super().__getitem__(i)
        rng = np.random.default_rng([self.seed, self.epoch, i + 1])
        return (add_gaussian_noise(images, self.sigma, rng),)


def denoise(model, images, sigma):
    """The mean of the clean images and HALF, given noisy ones: one step of the score.

    Args:
        model: a `nice.Flow` of images with Gaussian noise.
        images: float32 array (n, *image_shape), in grey levels with that noise.
        sigma: the noise's deviation, in grey levels.

    Returns:
        A float32 array (n, *image_shape).
    """
    cleaned = []
    for start in range(0, len(images), nice.EVALUATION_BATCH):
        batch = images[start : start + nice.EVALUATION_BATCH]
        score = ops.convert_to_numpy(model.score(batch))
        cleaned.append(batch + sigma**2 * score)
    return np.concatenate(cleaned)


def train(build, images, sigma, epochs, seed=0):
    """Build a flow, and train it on images with Gaussian noise."""
    keras.utils.set_random_seed(seed)
    model = build(images.shape[1:], COUPLINGS)
    affine.train(model, NoisyBatches(images, sigma, seed), epochs)
    return model


def in_grid(values):
    """Decoded values as images in rows and columns."""
    return pictures.in_rows(nice.to_pixels(values, 2 * HALF), GRID)


def plot_codes(found):
    """Plot all values of codes beside the prior: a dict of names and arrays (n, D)."""
    figure, all_axes = pictures.plot(3.2 * len(found), 2.8, columns=len(found))
    ends = np.linspace(-5, 5, 101)
    prior = np.exp(-(ends**2) / 2) / np.sqrt(2 * np.pi)
    for axes, (name, z) in zip(np.ravel(all_axes), found.items(), strict=True):
        axes.hist(z.ravel(), ends, density=True, color="0.6")
        axes.plot(ends, prior, color="C1")
        title = f"{name}\nmedian kurtosis {np.median(codes.kurtosis(z)):.1f}"
        axes.set(yscale="log", ylim=(1e-4, 10), xlabel="value in the code")
        axes.set_title(title, fontsize=10)
        print(title.replace("\n", ": "))
    return figure


@command_line.program("examples.denoise")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    path = command_line.path
    add("--data", type=path, default=data.MNIST, help=".npz file (default: MNIST)")
    add("--output", type=path, default=path("denoise.png"), help="file to write")
    add("--epochs", type=command_line.positive, default=4, help="passes over images")
    real = command_line.not_negative_real
    add("--sigma", type=real, default=28.0, help="of the noise, in grey levels")
    add("--plain", type=path, help="a model of nice.py, whose codes are shown, too")
    args = parser.parse_args(argv)
    (x_train, _), (x_test, _) = data.load(args.data)
    noisy = add_gaussian_noise(x_test, args.sigma, np.random.default_rng(0))

    found = {}
    if args.plain:
        model = nice.load(args.plain)
        found["noise of one grey level"] = model.encode(x_test, model.noise)
    grids = {}
    tests = {}
    for name, build in affine.BUILDERS.items():
        print(f"{name}, noise of {args.sigma:g} grey levels", flush=True)
        model = train(build, x_train, args.sigma, args.epochs)
        model.save(args.output.with_name(f"denoise-{name.lower()}.keras"))
        found[f"{name}, noise of {args.sigma:g}"] = model.encode(noisy)
        drawn = model.decode(model.sample_codes(GRID * GRID))
        grids[f"{name}: drawn, T = 1"] = in_grid(drawn)
        grids[f"{name}: one step taken"] = in_grid(denoise(model, drawn, args.sigma))
        cleaned = denoise(model, noisy[:GRID], args.sigma)
        rows = np.concatenate([noisy[:GRID], cleaned, x_test[:GRID] + HALF])
        tests[f"test images: noisy, cleaned by {name}, clean"] = in_grid(rows)
    pictures.save(args.output, pictures.titled(grids | tests))
    pictures.save(args.output.with_name("denoise-codes.png"), plot_codes(found))
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
