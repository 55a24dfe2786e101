"""Are codes of real images like the prior?  python -m examples.codes

spectrum.png shows sigma = 1 / s of each dimension, sorted: where it is large, images
differ; where it is small, they are nearly constant. codes.png shows four dimensions, of
codes of test images, with the noise of training, and of the prior. They differ, as a
coupling only shifts: it cannot turn the spike of a pixel that is nearly always black
into a bell. Where a pixel is always black, only the noise is left, a box.
"""

from support import command_line, data, files, pictures

import nice

import sys

import numpy as np
from keras import ops

# The dimensions shown, by the share of dimensions whose sigma is larger.
SHARES = np.array([0, 0.25, 0.55, 1])


def spectrum(sigma):
    """Plot sigma (D,), sorted; print how many dimensions hold most of the variance."""
    sigma = np.sort(sigma)[::-1]
    share = np.cumsum(sigma**2) / np.sum(sigma**2)
    for part in (0.5, 0.9, 0.99):
        count = np.sum(share < part) + 1
        print(f"{count} of {len(sigma)} dimensions hold {part:.0%} of variance")
    figure, axes = pictures.plot()
    axes.semilogy(sigma)
    axes.set(xlabel="dimension of the code, sorted", ylabel="sigma (white is 1)")
    return figure


def describe(z, drawn):
    """Print what each dimension is like.

    Args:
        z: codes of test images, (n, D).
        drawn: codes drawn from the prior, (n, D).
    """
    near = drawn.std() / 4
    columns = "median kurtosis   over 1000   within a quarter of a deviation of 0"
    print(f"codes of       {columns}")
    for name, codes in {"test images": z, "the prior": drawn}.items():
        codes = codes[:, codes.std(axis=0) > 0]  # a constant dimension has no kurtosis
        fourth_moment = np.mean((codes - codes.mean(axis=0)) ** 4, axis=0)
        kurtosis = fourth_moment / codes.var(axis=0) ** 2
        median = np.median(kurtosis)
        heavy = np.mean(kurtosis > 1000)
        close = np.mean(abs(codes) < near)
        print(f"{name:15}{median:15.1f}{heavy:12.0%}{close:12.0%}")


def shape_of(values, clean):
    """What the histogram of a dimension is like, in words.

    Args:
        values: of codes of images with noise, (n,).
        clean: of codes of the same images without noise, (n,).
    """
    if clean.var() < 0.1 * values.var():
        return "box: only noise"
    if np.mean(abs(values) < 0.25) > 0.45:  # of the prior it is 0.2
        return "spike: background"
    return "no spike"


def histograms(z, clean, sigma, prior):
    """Plot four dimensions of codes, from the largest sigma to the smallest.

    Args:
        z: codes of test images with noise, (n, D).
        clean: codes of the same images without noise, (n, D).
        sigma: of each dimension, (D,).
        prior: of the model.
    """
    chosen = np.argsort(-sigma)[(SHARES * (len(sigma) - 1)).round().astype(int)]
    ends = np.linspace(-5, 5, 101)
    nats = prior.log_prob(ops.convert_to_tensor(ends[:, None]))
    density = np.exp(ops.convert_to_numpy(nats))
    figure, axes = pictures.plot(9, 2.8, columns=len(chosen))
    for dimension, ax in zip(chosen, axes, strict=True):
        values = z[:, dimension]
        shape = shape_of(values, clean[:, dimension])
        ax.hist(values, ends, density=True, color="0.6", label="test images")
        ax.plot(ends, density, color="C1", label="prior")
        ax.set(yscale="log", ylim=(1e-3, 30), xlabel="value in the code")
        ax.set_title(f"sigma {sigma[dimension]:.4f}\n{shape}", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("density")
    axes[0].legend(fontsize=8, loc="upper left", frameon=False)
    return figure


@command_line.program("examples.codes")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--model",
        type=command_line.path,
        default=command_line.MODEL,
        help="a file of nice.py",
    )
    add(
        "--data",
        type=command_line.path,
        help="test images (default: those of the model's run)",
    )
    args = parser.parse_args(argv)
    model = nice.load(args.model)
    source = args.data or files.recorded_data(args.model)
    _, (x_test, _) = data.load(source)

    verbose = command_line.verbose()
    z = model.encode(x_test, model.noise, verbose=verbose)
    clean = model.encode(x_test, verbose=verbose)
    drawn = model.sample_codes(len(z))
    describe(z, drawn)
    made = {
        "spectrum.png": spectrum(model.sigma),
        "codes.png": histograms(z, clean, model.sigma, model.prior),
    }
    for name, picture in made.items():
        path = args.model.parent / name
        pictures.save(path, picture)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
