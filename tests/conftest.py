"""What the tests share: small networks, real digits, and each backend's autodiff."""

import os
import signal

os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # suites may share a GPU
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import keras
import numpy as np
import pytest

import nice
from support import data

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in the background

SMALL = ["--couplings", "2", "--hidden-layers", "1", "--hidden-units", "32", "--batch-size", "100"]


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """An .npz file with the first 1,000 training and 200 test images of MNIST."""
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    with np.load(data.MNIST) as mnist:
        x_train, x_test, y_test = mnist["x_train"][:1000], mnist["x_test"][:200], mnist["y_test"]
    np.savez(path, x_train=x_train, x_test=x_test, y_test=y_test[:200])
    return path


def train(digits, output, *options, epochs=3):
    """Run `python nice.py` with a small network, in this process; return its exit status."""
    arguments = ["--data", digits, "--output", output, *SMALL, "--epochs", epochs, *options]
    return nice.main([str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory):
    """The output folder of a finished run."""
    output = tmp_path_factory.mktemp("trained")
    assert train(digits, output) == 0
    return output


@pytest.fixture
def refuse(capsys):
    """Check that a command line is refused: status 2, and one line on stderr with these words."""

    def check(main, arguments, *words):
        with pytest.raises(SystemExit) as error:
            main([str(argument) for argument in arguments])
        message = capsys.readouterr().err
        assert error.value.code == 2
        assert message.count("\n") == 1 and message.endswith("\n"), message
        for word in words:
            assert str(word) in message

    return check


def jacobian(f, x):
    """The Jacobian of f at the vector x, shape (D, D), by the backend's own autodiff."""
    x = np.asarray(x, "float32")[None]
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            x = tf.constant(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = f(x)
            matrix = tape.jacobian(y, x)
        case "jax":
            import jax

            matrix = jax.jacobian(f)(x)
        case "torch":
            import torch

            matrix = torch.autograd.functional.jacobian(f, torch.tensor(x)).detach()
    return np.asarray(matrix)[0, :, 0, :]


def randomise(model, seed=0, deviation=0.3):
    """Give every trainable weight random values, so that nothing is zero by its start."""
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, deviation, weight.shape))
    return model
