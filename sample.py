"""Draw from a trained NICE model, and look inside it:  python sample.py [picture]

    samples      new images: random codes, decoded (the default)
    interpolate  paths between the codes of two real images: straight lines, then great circles
    traverse     one image's code, moved along single dimensions, important ones and others
    spectrum     how important each dimension is: sigma = 1 / s, sorted
    inpaint      hidden pixels, found by gradient ascent on the log-likelihood
    reconstruct  images, encoded and decoded again, and what that changes
    anneal       the same codes at rising temperatures
    likelihood   histograms of log q(x): of digits, samples, upside-down digits, and noise
    extremes     the test images that the model finds likeliest, and least likely

Most of these are a function below that takes a model and arrays and returns images of shape
(rows, columns, *image_shape): a picture shows them all, an animation one column after another.
"""

import functools
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

import nice
from nice import keras, ops  # by way of nice, which keeps TensorFlow's greetings off stderr

PICTURES = {  # rows or images, and columns or steps, unless --rows and --columns say otherwise
    "samples": (15, 15),
    "interpolate": (5, 10),
    "traverse": (2, 9),
    "spectrum": (1, 1),
    "inpaint": (4, 18),
    "reconstruct": (5, 3),
    "anneal": (15, 8),
    "likelihood": (1, 1),
    "extremes": (2, 15),
}
PLOTS = ("spectrum", "likelihood")  # matplotlib draws them
MOVING = ("interpolate", "traverse", "anneal")  # their columns are steps along a path


def decode(encoder, codes):
    """Decode codes of shape (rows, columns, D) in one batch."""
    decoder = nice.build_decoder(encoder)  # called, not `predict`: compiling takes longer here
    images = ops.convert_to_numpy(decoder(codes.reshape(-1, codes.shape[-1])))
    return images.reshape(*codes.shape[:2], *encoder.input_shape[1:])


def samples(encoder, rows, columns, temperature=0.8, seed=0):
    """Draw new images: codes from the prior, its width times the temperature, decoded.

    The article chose 0.8 by eye: nearer to the middle, where the training images' codes are
    dense, digits are cleaner and less varied. 0 draws the mode.
    """
    prior, dimensions = encoder.layers[-1].prior, encoder.output_shape[1]
    codes = nice.draw_codes(prior, rows * columns, dimensions, temperature, seed)
    return decode(encoder, codes.reshape(rows, columns, dimensions))


def interpolate(encoder, first, second, steps=10):
    """Join the codes of two image batches, by straight lines and below by great circles.

    Halfway along a straight line between two random codes the norm is smaller by about
    sqrt(2): further inside than any code the model saw. The great circle keeps the norm.
    """
    a, b = (encoder.predict_on_batch(images)[:, None] for images in (first, second))
    t = np.linspace(0, 1, steps, dtype="float32")[:, None]
    lengths = [np.linalg.norm(code, axis=-1, keepdims=True) for code in (a, b)]
    cosine = np.sum(a * b, axis=-1, keepdims=True) / (lengths[0] * lengths[1])
    angle = np.arccos(np.clip(cosine, -0.9999, 0.9999))
    lines = (1 - t) * a + t * b
    circles = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return decode(encoder, np.concatenate([lines, circles]))


def traverse(encoder, images, dimensions=4, steps=9):
    """Move each image's code by -3 sigma to +3 sigma along single dimensions, one a row.

    First the dimensions with the largest sigma, then as many with the smallest (eqs. 16-17):
    the first carry the image, the last are flat and should change nothing that one can see.
    """
    order = np.argsort(sigma(encoder))
    chosen = [*order[::-1][:dimensions], *order[:dimensions]]
    codes = np.repeat(encoder.predict_on_batch(images), len(chosen), axis=0)
    codes = np.repeat(codes[:, None], steps, axis=1)
    rows = np.arange(len(codes))
    # z has unit width, so one sigma is 1 there.
    codes[rows, :, np.resize(chosen, len(rows))] += np.linspace(-3, 3, steps, dtype="float32")
    return decode(encoder, codes)


def sigma(encoder):
    """The width sigma = 1 / s of the prior in each dimension (eqs. 16-17), shape (D,)."""
    return np.exp(-ops.convert_to_numpy(encoder.layers[-1].log_scale))


def reconstruct(encoder, images):
    """Encode and decode: a row is an image, what comes back, and the difference times 10,000."""
    decoded = nice.build_decoder(encoder).predict_on_batch(encoder.predict_on_batch(images))
    return np.stack([images, decoded, 1e4 * abs(decoded - images)], axis=1)


def anneal(encoder, rows, temperatures, seed=0):
    """Decode the same codes at several temperatures, one column each."""
    codes = nice.draw_codes(encoder.layers[-1].prior, rows, encoder.output_shape[1], 1.0, seed)
    temperatures = np.asarray(temperatures, "float32")
    return decode(encoder, codes[:, None] * temperatures[:, None])


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


def inpaint(encoder, images, hidden, steps=1000, seed=0):
    """Fill in hidden pixels by noisy gradient ascent on log q(x) (paper, section 5.2).

    The paper's rule is x <- x + a (d log q / dx + e), e ~ N(0, I), a = 10 / (100 + i) at step
    i. Our log q is far too steep for that in pixels, its curvature being about s^2, so we
    measure pixels in units of w = sqrt(40 / mean(s^2)), which turns the rule into
    x <- x + a (w^2 d log q / dx + w e). We start from uniform noise, and clip to [0, 1].

    Args:
        hidden: boolean array of the images' shape, True where a pixel is hidden. The others
            are never touched.

    Returns:
        The images filled in, shape (batch, *image_shape).
    """
    loss = nice.PRIORS[encoder.layers[-1].prior][0]
    w = np.sqrt(40 / np.mean(sigma(encoder) ** -2.0))
    rng = np.random.default_rng(seed)
    x = np.where(hidden, rng.random(images.shape, dtype="float32"), images)
    slope = gradient(lambda x: -loss(None, encoder(x)))  # all of log q that depends on x
    for i in range(steps):
        noise = rng.standard_normal(x.shape, dtype="float32")
        step = 10 / (100 + i) * (w**2 * slope(x) + w * noise)
        x = np.where(hidden, np.clip(x + step, 0, 1), images).astype("float32")
    return x


def gradient(f):
    """Compile x -> d sum(f(x)) / dx, with the backend's own autodiff."""
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            @tf.function
            def slope(x):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = f(x)
                return tape.gradient(y, x)

        case "jax":
            import jax

            slope = jax.jit(jax.grad(lambda x: f(x).sum()))

        case "torch":
            import torch

            def slope(x):
                x = x.requires_grad_()
                return torch.autograd.grad(f(x).sum(), x)[0]

    return lambda x: ops.convert_to_numpy(slope(ops.convert_to_tensor(x)))


def spectrum(encoder):
    """Plot sigma, sorted, on a logarithmic axis (as the paper does): a uint8 RGB picture."""
    labels = {
        "title": "Spectrum of a NICE model",
        "xlabel": "dimension of the code, sorted",
        "ylabel": "sigma = 1 / s (pixel values)",
    }
    return plot(lambda axes: axes.plot(np.sort(sigma(encoder))[::-1]), yscale="log", **labels)


def strangers(encoder, images, seed=0):
    """What to ask a density about: real images, and three kinds that only it calls images.

    Its own samples are at temperature 1 and not clipped: just what the density says.

    Args:
        images: real images, without noise.

    Returns:
        A dict of as many images of each kind, with the noise that the encoder was trained with.
    """
    count, noise = len(images), encoder.layers[2].width
    own = samples(encoder, count, 1, temperature=1.0, seed=seed)[:, 0]
    static = np.random.default_rng(seed).random(images.shape, dtype="float32")
    kinds = {"test images": images, "upside down": images[:, ::-1, ::-1], "uniform noise": static}
    return {k: nice.add_noise(x, noise, seed) for k, x in kinds.items()} | {"its samples": own}


def histograms(nats):
    """Plot a histogram of the log-likelihoods of each kind of image: a uint8 RGB picture.

    Args:
        nats: dict from a name to an array of nats per image.
    """
    # Noise is so unlikely that on one axis with it all the rest would be a single bar.
    values = np.concatenate([*nats.values()])
    edges = np.linspace(np.median(values) - 2000, values.max(), 100)

    def draw(axes):
        for name, x in nats.items():
            axes.hist(np.maximum(x, edges[0]), edges, histtype="step", linewidth=1.5, label=name)
        axes.legend()

    labels = {"xlabel": "log q(x) (nats per image; all below are in the first bar)"}
    return plot(draw, yscale="log", ylabel="images", **labels)


def plot(draw, **labels):
    """Render what `draw` puts on a matplotlib axes, as a uint8 RGB picture.

    Raises:
        ImportError: matplotlib, which only the plots need, is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot(**labels)
    draw(axes)
    axes.grid(alpha=0.3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def extremes(encoder, images, rows, columns):
    """Find the likeliest images, then the least likely: 2 * rows rows, each from high to low.

    Raises:
        ValueError: there are not enough images.
    """
    if len(images) < 2 * rows * columns:
        raise ValueError(f"this picture needs {2 * rows * columns} images, not {len(images)}")
    noisy = nice.add_noise(images, encoder.layers[2].width, seed=0)
    order = np.argsort(-nice.log_likelihood(encoder, noisy))
    ends = np.concatenate([order[: rows * columns], order[-rows * columns :]])
    return images[ends].reshape(2 * rows, columns, *images.shape[1:])


# --- Command line ----------------------------------------------------------------------------


def pick(images, labels, count, seed):
    """Choose `count` images, and for each another one, of another label if there are labels.

    Raises:
        ValueError: there are not enough images.
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


def make(picture, encoder, rows, columns, args):
    """Make a picture's images (for a plot, the picture), and print its numbers."""
    if picture == "samples":
        return samples(encoder, rows, columns, args.temperature, args.seed)
    if picture == "spectrum":
        share = np.cumsum(np.sort(sigma(encoder) ** 2)[::-1])
        for part in (0.5, 0.9, 0.99):
            count = np.searchsorted(share, part * share[-1]) + 1
            print(f"{count:5} of {len(share)} dimensions hold {part:.0%} of the variance")
        return spectrum(encoder)

    x_train, x_test, y_test = nice.load_images(args.data)
    nice.check_shape(encoder, x_test)
    if picture == "extremes":
        return extremes(encoder, x_test, rows, columns)
    if picture == "likelihood":
        kinds = strangers(encoder, x_test, args.seed)
        nats = {name: nice.log_likelihood(encoder, x) for name, x in kinds.items()}
        for name, x in nats.items():
            print(f"{name:14} {x.mean():10.0f} nats on average, {x.std():.0f} their deviation")
        return histograms(nats)
    if picture == "anneal":
        prior, dimensions = encoder.layers[-1].prior, encoder.output_shape[1]
        codes = {"random codes": nice.draw_codes(prior, 10000, dimensions, 1.0, args.seed)}
        for name, x in (("training images", x_train[:10000]), ("test images", x_test)):
            noisy = nice.add_noise(x, encoder.layers[2].width, args.seed)  # as in training
            codes[name] = encoder.predict(noisy, batch_size=1000, verbose=0)
        print("medians         deviation of a dimension    length of a code / sqrt(D)")
        for name, z in codes.items():
            length = np.median(np.sqrt(np.mean(z**2, axis=1)))
            print(f"{name:16}{np.median(z.std(axis=0)):24.2f}{length:30.2f}")
        return anneal(encoder, rows, np.linspace(0.5, 1.2, columns), args.seed)
    first, second = pick(x_test, y_test, rows, args.seed)
    if picture == "interpolate":
        return interpolate(encoder, first, second, columns)
    if picture == "traverse":
        return traverse(encoder, first, steps=columns)
    if picture == "reconstruct":
        images = reconstruct(encoder, first)
        print(f"largest error: {images[:, 2].max() / 1e4:.1e}")
        return images
    hidden = masks(encoder.input_shape[1:], args.seed)
    images = np.concatenate([first] * len(hidden))
    where = np.repeat(np.stack([*hidden.values()]), rows, axis=0)
    blocks = images, np.where(where, np.float32(0.5), images), inpaint(encoder, images, where)
    nats = [nice.log_likelihood(encoder, x).reshape(-1, rows).mean(axis=1) for x in blocks]
    print("log-likelihood  original    masked  in-painted")
    for name, *row in zip(hidden, *nats, strict=True):
        print(f"{name:14}" + "{:10.0f}{:10.0f}{:12.0f}".format(*row))
    triples = np.stack(blocks, axis=1).reshape(len(hidden), rows, 3, *first.shape[1:])
    return triples.swapaxes(0, 1).reshape(rows, -1, *first.shape[1:])  # a mask, three columns


def make_parser():
    parser = nice.Parser(
        description="Draw from a trained NICE model, and look inside it.", allow_abbrev=False
    )
    size, real = nice.number(int, 1), nice.number(float, 0)
    parser.add_argument("picture", nargs="?", choices=PICTURES, default="samples")
    parser.add_argument("--model", type=Path, default=Path("output/nice.keras"), help="its file")
    parser.add_argument("--output", type=Path, help="picture (default: output/<picture>.png)")
    parser.add_argument("--data", default=nice.DATA, help="where real images come from")
    parser.add_argument("--temperature", type=real, default=0.8, help="of samples (default: 0.8)")
    parser.add_argument("--rows", type=size, help="rows of samples (default: 15); else, of images")
    parser.add_argument("--columns", type=size, help="columns of samples, or steps")
    parser.add_argument("--seed", type=nice.number(int, 0), default=0, help="default: 0")
    return parser


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    output = args.output or Path("output") / f"{args.picture}.png"
    rows, columns = PICTURES[args.picture]
    rows, columns = args.rows or rows, args.columns or columns
    try:
        if output.suffix not in (".png", ".gif"):
            raise ValueError(f"{output}: pictures are .png files, animations .gif")
        if output.suffix == ".gif" and args.picture not in MOVING:
            raise ValueError(f"{output}: only {', '.join(MOVING)} move; choose a .png")
        encoder = nice.load_encoder(args.model)
        images = make(args.picture, encoder, rows, columns, args)
        if args.picture in PLOTS:
            write = functools.partial(imageio.imwrite, image=images)
        elif output.suffix == ".png":
            picture = nice.grid(np.concatenate(images), *images.shape[:2])
            write = functools.partial(imageio.imwrite, image=picture)
        else:
            frames = [nice.grid(column, 1, len(images)) for column in images.swapaxes(0, 1)]
            frames += frames[-2:0:-1]  # there and back
            write = functools.partial(imageio.imwrite, image=frames, duration=150, loop=0)
        output.parent.mkdir(parents=True, exist_ok=True)
        nice.replace(output, write)
    except (ValueError, OSError) as error:
        parser.error(error)
    except ImportError:
        parser.error("the plot needs matplotlib: pip install matplotlib")
    print(output)


if __name__ == "__main__":
    sys.exit(main())
