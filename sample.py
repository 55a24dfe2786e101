"""Draw from a trained NICE model, and look inside it:  python sample.py [picture]

Each function under "The pictures" is one, and its keywords are the picture's options. `encoder`
is the trained model; x_train, x_test and y_test are real images, and labels. Images are in grey
levels, and z are codes.
"""

from support import startup  # isort: skip  (first: programs start quietly, before Keras)

import math
import sys

import keras
import numpy as np
from keras import ops

import nice
from layers import AdditiveCoupling, DiagonalScaling, Inverse, UniformNoise
from support import backends, command_line, data, pictures, runs
from support.batches import Batches
from support.pictures import Sheet


def encode(encoder, images):
    """Encode images, without noise: float32 codes of shape (images, D)."""
    return encoder.predict(Batches(images), verbose=0)


def decode(encoder, z):
    """Decode codes of shape (rows, columns, D), 1,000 at a time."""
    decoder = nice.build_decoder(encoder)  # called, not `predict`: compiling takes longer here
    flat = z.reshape(-1, z.shape[-1])
    parts = [flat[start : start + 1000] for start in range(0, len(flat), 1000)]
    images = np.concatenate([ops.convert_to_numpy(decoder(part)) for part in parts])
    return images.reshape(*z.shape[:2], *encoder.input_shape[1:])


def sampler(encoder, source):
    """The layer that draws codes: the "fitted" density, if the model has it yet, or the "prior"."""
    names = [layer.name for layer in encoder.layers]
    if source not in names:
        print("no density was fitted to this model's codes (training does, at its end): prior")
    return encoder.get_layer(source if source in names else "prior")


def flow_steps(encoder):
    """The steps from x to the code: couplings and scaling, without the noise and the units."""
    kinds = AdditiveCoupling, DiagonalScaling
    return [layer for layer in encoder.layers if isinstance(layer, kinds)]


def choose(images, count, seed):
    """Choose `count` images; raise ValueError if there are fewer."""
    if len(images) < count:
        raise ValueError(f"this picture needs {count} test images, the data has {len(images)}")
    return images[np.random.default_rng(seed).permutation(len(images))[:count]]


def pairs(images, labels, count, seed):
    """Choose `count` images, and for each another one, of another label if there are labels.

    Raises:
        ValueError: there are fewer than 2 * count.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    if len(order) < 2 * count:
        raise ValueError(f"--rows {count} needs {2 * count} test images, the data has {len(order)}")
    first, rest = order[:count], iter(order[count:])
    second = [
        next((j for j in rest if labels is None or labels[j] != labels[i]), order[-1])
        for i in first
    ]
    return images[first], images[second]


def widths(encoder):
    """How wide each dimension is, (D,): the scaling's sigma, or a learned prior's deviation."""
    prior = encoder.get_layer("prior")
    return prior.deviation if prior.learns_widths else encoder.get_layer("scaling").sigma


def standardise(encoder, z):
    """Codes, moved and stretched so that the prior's have mean 0 and deviation 1."""
    prior = encoder.get_layer("prior")
    return (z - prior.mean) / prior.deviation


# --- The pictures ----------------------------------------------------------------------------


def samples(encoder, *, rows=15, columns=15, temperature=0.8, source="fitted", seed=0):
    """new images: random codes, decoded (the default picture)

    Codes come from the density fitted to those of training images, or with `source="prior"`
    from the prior, as in the article. The article chose the temperature by eye: below 1 digits
    are cleaner and less varied. At 0 a Gaussian prior draws its mode.
    """
    z = sampler(encoder, source).sample(rows * columns, temperature, seed)
    return Sheet(decode(encoder, z.reshape(rows, columns, -1)))


def interpolate(encoder, x_test, y_test, *, rows=5, columns=10, seed=0):
    """paths between the codes of two real images: straight lines, then great circles

    Halfway along a straight line between two codes the norm is smaller by about sqrt(2):
    further inside than any code the model saw. The great circle changes it evenly, and yet the
    judge of benchmarks/digits.py recognises more on the line.
    """
    first, second = pairs(x_test, y_test, rows, seed)
    a, b = (encode(encoder, images)[:, None] for images in (first, second))
    t = np.linspace(0, 1, columns, dtype="float32")[:, None]
    lines = (1 - t) * a + t * b
    lengths = [np.linalg.norm(z, axis=-1, keepdims=True) + 1e-12 for z in (a, b)]  # none is 0
    a, b = a / lengths[0], b / lengths[1]
    angle = np.arccos(np.clip(np.sum(a * b, axis=-1, keepdims=True), -0.9999, 0.9999))
    circles = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    circles *= (1 - t) * lengths[0] + t * lengths[1]
    images = decode(encoder, np.concatenate([lines, circles]))
    return Sheet(images, row_labels=["line"] * rows + ["circle"] * rows)


def traverse(encoder, x_test, *, rows=2, columns=9, dimensions=2, seed=0):
    """an image's code, moved along principal directions, then along single dimensions

    Up to 3 standard deviations either way, the image itself among them. First the principal
    directions of the codes, if the model has them; then the dimensions with the largest sigma,
    and those with the smallest (eqs. 16-17): these are flat, and nothing should change.
    """
    images = choose(x_test, rows, seed)
    prior, sigma = encoder.get_layer("prior"), encoder.get_layer("scaling").sigma
    width = widths(encoder)
    order = np.argsort(-width)
    labels, moves = [], []
    if "fitted" in [layer.name for layer in encoder.layers]:
        basis = ops.convert_to_numpy(encoder.get_layer("fitted").basis)[:, :dimensions]
        spread = np.std(encode(encoder, x_test) * sigma @ basis, axis=0)
        moves += list((spread * basis).T / sigma)  # the basis is one of h, z = h / sigma
        labels += [f"direction {n + 1}" for n in range(len(spread))]
    for dimension in (*order[:dimensions], *order[-dimensions:]):
        moves.append(prior.deviation * np.eye(len(sigma))[dimension])
        labels.append(f"sigma {width[dimension]:.3f}")
    middle = columns // 2
    amounts = 3 * (np.arange(columns) - middle) / max(middle, 1)
    along = amounts[:, None] * np.stack(moves)[:, None]  # (moves, columns, D)
    z = encode(encoder, images)[:, None, None] + along  # (images, moves, columns, D)
    z = z.reshape(-1, *z.shape[2:]).astype("float32")  # a row for each move of each image
    above = [f"{amount:+.1f}" for amount in amounts]
    return Sheet(decode(encoder, z), row_labels=labels * rows, column_labels=above)


def spectrum(encoder):
    """how important each dimension of the code is: sigma = 1 / s, sorted

    Of a prior that learns widths itself, its deviations.
    """
    sigma = np.sort(widths(encoder))[::-1]
    share = np.cumsum(sigma**2)
    for part in (0.5, 0.9, 0.99):
        count = np.searchsorted(share, part * share[-1]) + 1
        print(f"{count:5} of {len(share)} dimensions hold {part:.0%} of the variance")

    def draw(axes):
        axes.plot(sigma)
        axes.set(yscale="log", xlabel="dimension of the code, sorted")
        axes.set(ylabel="sigma = 1 / s (white is 1)")
        axes.grid(alpha=0.3)

    return pictures.plot(draw)


def stages(encoder, x_test, *, rows=4, temperature=0.8, source="fitted", seed=0):
    """every step of the flow: random codes becoming images, then images becoming codes

    A code is drawn around mid grey, the prior's mean, everything else as an image; after every
    coupling the dimensions are reversed, which turns the picture upside down.
    """
    steps, images = flow_steps(encoder), choose(x_test, rows, seed)
    drawn = sampler(encoder, source).sample(rows, temperature, seed)
    levels = encoder.get_layer("grey_levels").levels

    def walk(h, layers):
        seen = [h]
        for layer in layers:
            seen.append(ops.convert_to_numpy(layer(seen[-1])))
        return seen

    x = (images.reshape(rows, -1) / levels).astype("float32")
    back = walk(drawn, [Inverse(step) for step in reversed(steps)])
    there = walk(x, steps)
    columns = ["code", "/ s", *[f"coupling {n}" for n in range(len(back) - 2, 0, -1)]]
    blocks = []
    for z, *afterwards in (back, there[::-1]):
        code = 128 + 40 * standardise(encoder, z)  # white and black are three deviations away
        blocks.append(np.stack([code, *[levels * h for h in afterwards]], axis=1))
    sheet = np.concatenate(blocks)
    return Sheet(
        sheet.reshape(*sheet.shape[:2], *encoder.input_shape[1:]),
        row_labels=["random code"] * rows + ["test image"] * rows,
        column_labels=columns,
        zoom=3,  # wide enough for the labels
    )


def codes(encoder, x_test, *, dimensions=8):
    """single dimensions of real images' codes: their histograms, and the prior's density"""
    if len(x_test) < 2:
        raise ValueError(f"this picture needs 2 test images, the data has {len(x_test)}")
    noisy = Batches(x_test, noise=encoder.get_layer("noise"))
    z = standardise(encoder, encoder.predict(noisy, verbose=0))
    drawn = standardise(encoder, encoder.get_layer("prior").sample(10000))
    centred = z - z.mean(axis=0)
    centred = centred[:, centred.any(axis=0)]
    kurtosis = np.mean(centred**4, axis=0) / np.mean(centred**2, axis=0) ** 2
    print(f"median kurtosis of a dimension: {np.median(kurtosis):.1f} (a Gaussian's is 3)")
    print(f"dimensions with a kurtosis over 1,000: {np.mean(kurtosis > 1000):.0%}")
    near, expected = (np.mean(abs(values) < 0.25) for values in (z, drawn))
    print(f"values within a quarter of a deviation of 0: {near:.0%} (the prior's: {expected:.0%})")
    sigma = widths(encoder)
    order = np.argsort(-sigma)
    dimensions = min(dimensions, len(order))
    chosen = order[np.linspace(0, len(order) - 1, dimensions).round().astype(int)]
    bins = np.linspace(-4, 4, 81)

    def draw(axes):
        for ax in axes.flat[dimensions:]:
            ax.axis("off")
        for dimension, ax in zip(chosen, axes.flat, strict=False):
            ax.hist(z[:, dimension], bins, density=True, label="real images")
            heights, _ = np.histogram(drawn[:, dimension], bins, density=True)
            ax.plot((bins[1:] + bins[:-1]) / 2, heights, label="prior")
            ax.set(yscale="log", ylim=(1e-3, 30))
            ax.set_title(f"sigma {sigma[dimension]:.3f}", fontsize=9)
        axes.flat[0].legend(fontsize=8)

    return pictures.plot(draw, width=9, height=4.5, rows=2, columns=(dimensions + 1) // 2)


def anneal(encoder, x_train, x_test, *, rows=12, columns=8, source="fitted", seed=0):
    """the same codes at rising temperatures, 0.5 to 1.2"""
    prior, noise = encoder.get_layer("prior"), encoder.get_layer("noise")
    kinds = {"the prior's": prior.sample(10000, 1.0, seed)}
    for name, x in (("training images", x_train), ("test images", x_test)):
        some = np.random.default_rng(seed).permutation(len(x))[:10000]
        batches = Batches(x, some, noise=noise, seed=seed)
        kinds[name] = encoder.predict(batches, verbose=0)  # with noise, as in training
    print("medians         deviation of a dimension    length of a code / sqrt(D)")
    for name, z in kinds.items():
        z = standardise(encoder, z)
        length = np.median(np.sqrt(np.mean(z**2, axis=1)))
        print(f"{name:16}{np.median(z.std(axis=0)):24.2f}{length:30.2f}")
    temperatures = np.linspace(0.5, 1.2, columns)
    drawn = sampler(encoder, source)
    z = [drawn.sample(rows, temperature, seed) for temperature in temperatures]
    images = decode(encoder, np.stack(z, axis=1))
    return Sheet(images, column_labels=[f"{temperature:.2f}" for temperature in temperatures])


def masks(image_shape, seed=0):
    """What the paper hides, by name: boolean arrays of the image's shape, True where hidden."""
    y, x, *_ = np.indices(image_shape)
    scattered = np.random.default_rng(seed).random(image_shape[:2])
    return {
        "top half": y < image_shape[0] // 2,
        "bottom half": y >= image_shape[0] // 2,
        "left half": x < image_shape[1] // 2,
        "right half": x >= image_shape[1] // 2,
        "every second": (x + y) % 2 == 1,
        "random 75%": scattered[y, x] < 0.75,
    }


def fill_in(encoder, images, hidden, steps=300, seed=0):
    """Fill in hidden pixels by gradient ascent on log q(x) (paper, section 5.2).

    The curvature of log q is about s^2 along each dimension, which differs by a factor of
    thousands, so plain steps either diverge or crawl. Adam's move a pixel by at most about the
    rate, whatever the slope, and the rate falls to 0. As in the paper each step sees noise:
    that which the density was trained with. Pixels start as uniform noise, and stay in 0...255.

    Args:
        images: array of images in grey levels.
        hidden: boolean array of the images' shape, True where a pixel is hidden. The others
            are never touched.

    Returns:
        The images filled in, a float32 array of their shape.
    """
    prior, noise = encoder.get_layer("prior"), encoder.get_layer("noise")
    slope = backends.gradient(lambda x: prior.log_prob(encoder(x)))  # all that depends on x
    rng = np.random.default_rng(seed)
    images = images.astype("float32")
    x = np.where(hidden, 255 * rng.random(images.shape, dtype="float32"), images)
    mean, square = np.zeros_like(x), np.zeros_like(x)
    for i in range(steps):
        g = slope(ops.convert_to_numpy(noise.add_to(ops.convert_to_tensor(x), seed=i)))
        mean, square = 0.9 * mean + 0.1 * g, 0.99 * square + 0.01 * g**2
        unbiased, of_squares = mean / (1 - 0.9 ** (i + 1)), square / (1 - 0.99 ** (i + 1))
        rate = 25 * (1 - i / steps)  # in grey levels, a tenth of them all at first
        x = x + rate * unbiased / (np.sqrt(of_squares) + 1e-12)
        x = np.where(hidden, np.clip(x, 0, 255), images).astype("float32")
    return x


def inpaint(encoder, x_test, *, rows=4, count=24, steps=300, seed=0):
    """hidden pixels, found by gradient ascent on the log-likelihood

    Prints the mean log-likelihood of `count` test images (at least `rows`), as they are, with
    the hidden pixels at mid grey, and filled in; draws `rows` of them.
    """
    images = choose(x_test, max(rows, count), seed)
    sheet, columns = [], []
    print("log-likelihood  original    masked  in-painted")
    for name, hidden in masks(encoder.input_shape[1:], seed).items():
        found = fill_in(encoder, images, np.broadcast_to(hidden, images.shape), steps, seed)
        blocks = images, np.where(hidden, np.float32(127.5), images), found
        nats = [nice.log_likelihood(encoder, x, seed=seed).mean() for x in blocks]
        print(f"{name:14}{nats[0]:10.0f}{nats[1]:10.0f}{nats[2]:12.0f}")
        sheet += [block[:rows] for block in blocks]
        columns.append(name)
    return Sheet(np.stack(sheet, axis=1), column_labels=columns)


def reconstruct(encoder, x_test, *, rows=5, seed=0):
    """images, encoded and decoded again, and what that changes, times 10,000"""
    images = choose(x_test, rows, seed)
    decoded = decode(encoder, encode(encoder, images)[:, None])[:, 0]
    difference = abs(decoded - images)
    print(f"largest error: {difference.max() / 255:.1e} (white is 1)")
    columns = ["image", "decoded", "x 1e4"]
    return Sheet(np.stack([images, decoded, 1e4 * difference], axis=1), column_labels=columns)


def likelihood(encoder, x_test, *, seed=0):
    """histograms of log q(x): of real images, samples, upside-down images, and noise

    Its own samples are at temperature 1 and not clipped: just what the density says.
    """
    z = encoder.get_layer("prior").sample(len(x_test), 1.0, seed)
    drawn = decode(encoder, z[:, None])[:, 0]
    grain = np.random.default_rng(seed).integers(0, 256, x_test.shape, dtype="uint8")
    kinds = {"test images": x_test, "upside down": x_test[:, ::-1, ::-1], "uniform noise": grain}
    nats = {name: nice.log_likelihood(encoder, x, seed=seed) for name, x in kinds.items()}
    nats["its samples"] = nice.log_likelihood(encoder, drawn, UniformNoise(0, 0))
    for name, values in nats.items():
        mean, deviation = values.mean(), values.std()
        print(f"{name:14} {mean:10.0f} nats on average, {deviation:.0f} their deviation")

    # Noise is so unlikely that on one axis with it all the rest would be a single bar.
    shown = np.concatenate([nats["test images"], nats["upside down"], nats["its samples"]])
    edges = np.linspace(np.quantile(shown, 0.02), shown.max(), 100)

    def draw(axes):
        for name, values in nats.items():
            shown = np.maximum(values, edges[0])
            axes.hist(shown, edges, histtype="step", linewidth=1.5, label=name)
        axes.set(yscale="log", ylabel="images")
        axes.set(xlabel="log q(x) (nats per image; all below are in the first bar)")
        axes.grid(alpha=0.3)
        axes.legend()

    return pictures.plot(draw)


def extremes(encoder, x_test, *, rows=2, columns=15):
    """the test images that the model finds likeliest, and least likely"""
    count = rows * columns
    if len(x_test) < 2 * count:
        raise ValueError(f"this picture needs {2 * count} images, not {len(x_test)}")
    order = np.argsort(-nice.log_likelihood(encoder, x_test))
    images = x_test[np.concatenate([order[:count], order[-count:]])]
    images = images.reshape(2 * rows, columns, *x_test.shape[1:])
    return Sheet(images, row_labels=["likeliest"] * rows + ["least likely"] * rows)


def plane(*, couplings=6, epochs=30, seed=0):
    """a flow that one can see whole: points in the plane, their density, a grid bent step by step

    Trains the same layers on two half circles, for some seconds. Couplings shear the grid and
    keep every area; only the scaling changes areas, all by the same factor.
    """
    backends.check_floatx()
    rng = np.random.default_rng(seed)
    angle, moon = np.pi * rng.random(20000), rng.integers(2, size=20000)
    points = np.stack([np.cos(angle) + moon, np.sin(angle) * (1 - 2 * moon) + moon / 2], axis=1)
    points = (points + rng.normal(0, 0.1, points.shape) + [1.2, 1.2]) / 4  # into the unit square
    recipe = nice.Recipe(
        couplings=couplings,
        hidden_layers=2,
        hidden_units=64,
        output_activation="linear",
        scale_speed=10.0,
        levels=255,
        noise=0.0,
    )
    keras.utils.set_random_seed(seed)
    encoder = nice.build_encoder((2,), recipe)
    encoder.compile(keras.optimizers.Adam(2e-3))
    grey = 255 * points.astype("float32")
    encoder.fit(grey, epochs=epochs, batch_size=500, verbose=0)
    print(f"{nice.log_likelihood(encoder, grey).mean():.2f} nats a point on average")

    side = np.linspace(0, 1, 201)
    mesh = np.stack(np.meshgrid(side, side), axis=-1)
    nats = nice.log_likelihood(encoder, 255 * mesh.reshape(-1, 2).astype("float32"))
    lines = mesh[::10], mesh[:, ::10].swapaxes(0, 1)  # along x, along y
    seen = [[*lines, points[:1000]]]
    for step in flow_steps(encoder):
        flat = [h.reshape(-1, 2).astype("float32") for h in seen[-1]]
        after = [ops.convert_to_numpy(step(h)) for h in flat]
        seen.append([h.reshape(before.shape) for h, before in zip(after, seen[-1], strict=True)])
    titles = ["x", *[f"coupling {n + 1}" for n in range(couplings)], "scaling: z"]

    def draw(axes):
        first, *axes = axes.flat
        first.imshow(np.exp(nats).reshape(201, 201), origin="lower", extent=(0, 1, 0, 1))
        first.set_title("density q(x)", fontsize=9)
        for ax, title, (*lines, dots) in zip(axes, titles, seen, strict=False):
            for line in np.concatenate(lines):
                ax.plot(*line.T, color="0.7", linewidth=0.5)
            ax.scatter(*dots.T, s=2)
            ax.set_title(title, fontsize=9)
            ax.set_aspect("equal", adjustable="datalim")
        for ax in axes[len(titles) :]:
            ax.axis("off")

    return pictures.plot(draw, width=10, height=5.5, rows=2, columns=math.ceil((couplings + 3) / 2))


# --- The program -----------------------------------------------------------------------------

PICTURES = {
    picture.__name__: picture
    for picture in (
        *(samples, interpolate, traverse, spectrum, stages, codes),
        *(anneal, inpaint, reconstruct, likelihood, extremes, plane),
    )
}
MOVING = ("interpolate", "traverse", "anneal", "stages")  # their columns are steps along a path


@startup.program("sample.py")
def main(argv):
    """Make the picture that the command line names."""
    args = command_line.parse_picture(argv, PICTURES)
    output = args.output or args.model.parent / f"{args.picture}.png"
    if output.suffix not in (".png", ".gif"):
        raise ValueError(f"{output}: pictures are .png files, animations .gif")
    if output.suffix == ".gif" and args.picture not in MOVING:
        raise ValueError(f"{output}: only {', '.join(MOVING)} move; choose a .png")

    picture = PICTURES[args.picture]
    needs, options = command_line.parameters(picture)
    inputs = {}
    if "encoder" in needs:
        inputs["encoder"] = nice.load_encoder(args.model)
    if "x_train" in needs:
        inputs["x_train"], inputs["x_test"], _ = data.load_images(args.data)
    elif "x_test" in needs:
        inputs["x_test"], inputs["y_test"] = data.load_test_images(args.data)
    if "x_test" in needs:
        data.check_shape(inputs["encoder"], inputs["x_test"])
    print(backends.describe_device())
    made = picture(
        *[inputs[name] for name in needs], **{name: vars(args)[name] for name in options}
    )

    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".gif":
        runs.replace(output, lambda path: pictures.write_gif(path, made.frames(), 150))
    else:
        picture = made.picture() if isinstance(made, Sheet) else made
        runs.replace(output, lambda path: pictures.write_png(path, picture))
    print(output)


if __name__ == "__main__":
    sys.exit(main())
