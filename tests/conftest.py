"""What the tests share: small networks, real digits, and each backend's autodiff."""

from support import data

import nice

import os
import signal

import keras
import numpy as np
import pytest

# A shell lets what it runs in the background ignore Ctrl-C; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

SMALL = "--couplings 2 --hidden-layers 1 --hidden-units 32 --batch-size 100".split()


def pytest_configure(config):
    """Let JAX keep what it compiles: many tests compile the same.

    The processes that run the tests start after this, and read it.
    """
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(config.cache.mkdir("jax"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """An .npz file with the first 600 training and 200 test images of MNIST."""
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    (x_train, y_train), (x_test, y_test) = data.load()
    arrays = {"x_train": x_train[:600], "y_train": y_train[:600]}
    np.savez(path, **arrays, x_test=x_test[:200], y_test=y_test[:200])
    return path


def train(digits, output, *options, epochs=3):
    """Run `python nice.py` with a small network, in this process; return its status."""
    return nice.main(
        ["--data", digits, "--output", output, *SMALL, "--epochs", epochs, *options]
    )


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory):
    """The output folder of a finished run. It is read only: a test copies it."""
    output = tmp_path_factory.mktemp("trained")
    assert train(digits, output) == 0
    return output


@pytest.fixture(scope="session")
def encoder(trained):
    return nice.load(trained / "nice.keras")


@pytest.fixture
def refuse(capsys):
    """Check that a command line is refused: a status, and one line with these words."""

    def check(main, arguments, *words, status=2):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse
            code = error.code
        message = capsys.readouterr().err
        assert code == status, message
        assert message.count("\n") == 1 and message.endswith("\n"), message
        for word in words:
            assert str(word) in message, message

    return check


def jacobian(f, x):
    """The Jacobian of f at the vector x, (D, D), by the backend's own autodiff."""
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
    """Give every trainable weight random values: nothing is zero by its start."""
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        values = rng.normal(0, deviation, weight.shape)
        if weight.name == "log_s_over_multiplier":
            values /= 10  # else a multiplier of 10 makes s enormous
        weight.assign(values)
    return model


def numpy(x):
    return keras.ops.convert_to_numpy(x)
