"""Why is there noise in training?  python -m examples.noise

Pixels that are always black have the value 0. Without noise their codes are 0 whatever
their s is, and each doubling of s adds log 2 nats. So the loss falls for as long as one
trains, and what falls is no likelihood. Then log s is so large that a pixel which is
not black after all costs a fortune, and the loss jumps up. With noise one grey level
wide such a pixel holds the noise, and s ends where the noise is as wide as the prior.

noise.png shows the loss of held-out images, epoch by epoch, for both. It takes some
minutes.
"""

from support import backends, command_line, data, pictures

import nice

import sys

import keras

SEEN = {"no noise": 0.0, "noise of one grey level": 1.0}


def losses(images, held, noise, epochs):
    """The loss of held-out images after each epoch, both with noise of this width."""
    keras.utils.set_random_seed(0)
    size = nice.RECIPES["quick"].model
    model = nice.build_encoder(images.shape[1:], noise=noise, **size)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=backends.use_xla())
    history = model.fit(
        nice.Batches(images, noise=noise),
        validation_data=nice.Batches(held, noise=noise, shuffle=False),
        epochs=epochs,
        verbose=command_line.verbose(elsewhere=2),
    )
    print(f"largest s: {1 / model.sigma.min():.0f}", flush=True)
    return history.history["val_loss"]


def plot(found):
    """Plot losses by epoch: a dict of names and lists."""
    figure, axes = pictures.plot(6.5, 3.2)
    for name, values in found.items():
        axes.plot(range(1, len(values) + 1), values, ".-", label=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", ylabel="loss of held-out images\n-log q(x), nats")
    axes.legend()
    return figure


@command_line.program("examples.noise")
def main(argv):
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    path = command_line.path
    add("--data", type=path, default=data.MNIST, help=".npz file (default: MNIST)")
    add("--output", type=path, default="noise.png", help="file to write")
    add("--epochs", type=command_line.positive, default=20, help="passes over images")
    args = parser.parse_args(argv)
    (x_train, _), _ = data.load(args.data)
    images, _, held = data.hold_back(x_train, None, 1 / 6)
    found = {}
    for name, noise in SEEN.items():
        print(name, flush=True)
        found[name] = losses(images, held, noise, args.epochs)
    pictures.save(args.output, plot(found))
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
