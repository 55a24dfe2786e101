"""Are codes of real images like the prior?  python -m examples.codes

spectrum.png shows sigma = 1 / s of each dimension, sorted: where it is large, images
differ; where it is small, they are nearly constant. codes.png shows four dimensions, of
codes of test images, with the noise of training, and of the prior. They differ. Most
images have the same value in a background pixel, and what couplings subtract there is
mostly the same, too. So a spike is left, and no bell. Where a pixel is always black,
only the noise is left, a box. lengths.png shows how long codes and draws are.
"""

from support import command_line, data, files, pictures
from support.pictures import TEMPERATURE

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
    axes.set(xlabel="dimension of the code, sorted", ylabel="1 / s (white is 1)")
    return figure


def kurtosis(z):
    """The kurtosis of each dimension of codes (n, D) that varies; a Gaussian's is 3."""
    z = z[:, z.std(axis=0) > 0]
    fourth_moment = np.mean((z - z.mean(axis=0)) ** 4, axis=0)
    return fourth_moment / z.var(axis=0) ** 2


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
        found = kurtosis(codes)
        median = np.median(found)
        heavy = np.mean(found > 1000)
        close = np.mean(abs(codes[:, codes.std(axis=0) > 0]) < near)
        print(f"{name:15}{median:15.1f}{heavy:12.0%}{close:12.0%}")


def histograms(z, sigma, prior, levels):
    """Plot four dimensions of codes, from the largest sigma to the smallest.

    Lines stand where the code would be if no coupling had shifted the pixel: black,
    white, and the upper end of the noise on black.

    Args:
        z: codes of test images with noise, (n, D).
        sigma: of each dimension, (D,).
        prior: of the model.
        levels: of the model: a grey level is 1 / levels wide.
    """
    chosen = np.argsort(-sigma)[(SHARES * (len(sigma) - 1)).round().astype(int)]
    ends = np.linspace(-5, 5, 101)
    nats = prior.log_prob(ops.convert_to_tensor(ends[:, None]))
    density = np.exp(ops.convert_to_numpy(nats))
    figure, axes = pictures.plot(9, 2.8, columns=len(chosen))
    for dimension, ax in zip(chosen, axes, strict=True):
        ax.hist(z[:, dimension], ends, density=True, color="0.6", label="test images")
        s = 1 / sigma[dimension]
        marks = {"black ": 0, " white": s, " black + noise": s / levels}
        for name, place in marks.items():
            if place == 0 or 0.5 < place < 4.5:  # where it can be told from black
                ax.axvline(place, color="black", linewidth=0.8, linestyle=":")
                side = "left" if place else "right"
                ax.text(place, 35, name, ha=side, fontsize=7)
        ax.plot(ends, density, color="C1", label="prior")
        ax.set(yscale="log", ylim=(1e-3, 30), xlabel="value in the code")
        ax.set_title(f"1 / s = {sigma[dimension]:.4f}\n", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("density")
    axes[0].legend(fontsize=8, loc="upper left", frameon=False)
    return figure


def lengths(z, drawn):
    """Plot the lengths of codes of test images, and of draws from the prior, (n, D)."""
    figure, axes = pictures.plot(6.5, 2.4)
    bins = np.linspace(0, 60, 121)
    kinds = {"codes of test images": z, "draws, T = 1": drawn}
    kinds[f"draws, T = {TEMPERATURE}"] = TEMPERATURE * drawn
    for name, codes in kinds.items():
        length = np.linalg.norm(codes, axis=1)
        axes.hist(length, bins, density=True, alpha=0.6, label=name)
        print(f"length of {name}: median {np.median(length):.1f}")
    axes.set(xlabel="length of a code", yticks=[])
    axes.legend()
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

    z = model.encode(x_test, model.noise, verbose=command_line.verbose())
    drawn = model.sample_codes(len(z))
    describe(z, drawn)
    made = {
        "spectrum.png": spectrum(model.sigma),
        "codes.png": histograms(z, model.sigma, model.prior, model.levels),
        "lengths.png": lengths(z, drawn),
    }
    for name, picture in made.items():
        path = args.model.parent / name
        pictures.save(path, picture)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
