"""Are codes of real images like the prior?  python -m examples.codes

spectrum.png shows sigma = 1 / s of each dimension, sorted (eqs. 16-17): where it is large, images
differ; where it is small, they are nearly constant. codes.png shows single dimensions of codes of
test images, with the noise of training, and of the prior. They differ, as a coupling only shifts:
it cannot turn the spike of a pixel that is nearly always black into a bell.
"""

import sys
from pathlib import Path

import numpy as np

import nice
from support import command_line, data, files, pictures


def spectrum(sigma):
    """Plot sigma (D,), sorted; print how many dimensions hold most of the variance."""
    sigma = np.sort(sigma)[::-1]
    share = np.cumsum(sigma**2) / np.sum(sigma**2)
    for part in (0.5, 0.9, 0.99):
        print(f"{np.sum(share < part) + 1} of {len(sigma)} dimensions hold {part:.0%} of variance")
    figure, axes = pictures.plot()
    axes.semilogy(sigma)
    axes.set(xlabel="dimension of the code, sorted", ylabel="sigma (white is 1)")
    return figure


def describe(z, drawn):
    """Print what the dimensions of codes (n, D) are like, of test images and of the prior."""
    print("codes of       median kurtosis   over 1000   within a quarter of a deviation of 0")
    for name, codes in (("test images", z), ("the prior", drawn)):
        codes = codes[:, codes.std(axis=0) > 0]  # a constant dimension has no kurtosis
        kurtosis = np.mean((codes - codes.mean(axis=0)) ** 4, axis=0) / codes.var(axis=0) ** 2
        high, near = np.mean(kurtosis > 1000), np.mean(abs(codes) < drawn.std() / 4)
        print(f"{name:15}{np.median(kurtosis):15.1f}{high:12.0%}{near:12.0%}")


def histograms(z, drawn, sigma):
    """Plot eight dimensions, from the largest sigma to the smallest, of codes (n, D)."""
    chosen = np.argsort(-sigma)[np.linspace(0, len(sigma) - 1, 8).round().astype(int)]
    bins = np.linspace(-5, 5, 101)
    figure, axes = pictures.plot(9, 4.5, rows=2, columns=4)
    for dimension, ax in zip(chosen, axes.flat, strict=True):
        ax.hist(z[:, dimension], bins, density=True, label="test images")
        ax.hist(drawn[:, dimension], bins, density=True, histtype="step", label="prior")
        ax.set(yscale="log", ylim=(1e-3, 30), title=f"sigma {sigma[dimension]:.4f}")
    axes.flat[0].legend(fontsize=8)
    return figure


@command_line.program
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=command_line.MODEL)
    parser.add_argument("--data", help="test images (default: those of the model's run)")
    args = parser.parse_args(argv)
    encoder = nice.load_encoder(args.model)
    _, (x_test, _) = data.load(args.data or files.recorded_data(args.model))
    noise, sigma = encoder.get_layer("grey_levels").noise, encoder.get_layer("scaling").sigma
    z = encoder.predict(nice.Batches(x_test, 400, noise, shuffle=False), verbose=0)
    drawn = encoder.get_layer("prior").sample(len(z))
    describe(z, drawn)
    made = {"spectrum.png": spectrum(sigma), "codes.png": histograms(z, drawn, sigma)}
    for name, picture in made.items():
        pictures.save(args.model.parent / name, picture)
        print(args.model.parent / name)


if __name__ == "__main__":
    sys.exit(main())
