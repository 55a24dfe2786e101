"""The page of questions: its pointers, and what no other test holds of its answers."""

from support import mixture
from support.command_line import parse_training
from support.errors import UserError

import layers
import nice
import sample

import ast
import importlib
import itertools
import re
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import jacobian, numpy, randomise
from keras import ops

ROOT = Path(nice.__file__).parent
PAGE = ROOT / "docs" / "questions.md"


# --- The page ------------------------------------------------------------------------


def answers():
    """The answers of the page by their questions: a dict of texts."""
    text = PAGE.read_text(encoding="utf-8")
    found = {}
    for part in re.split(r"^### ", text, flags=re.M)[1:]:
        question, answer = part.split("\n", 1)
        answer = re.split(r"^## ", answer, flags=re.M)[0]
        found[question] = answer.strip()
    return found


def pointers(answer):
    """What an answer ends in: tests and commands, as the page has them."""
    last = answer.split("\n\n")[-1]
    return re.findall(r"`([^`]+)`", last)


QUESTIONS = answers()
POINTERS = sorted(set(itertools.chain(*map(pointers, QUESTIONS.values()))))


def test_questions_are_numbered():
    for number, question in enumerate(QUESTIONS, 1):
        assert question.startswith(f"{number}. ") and question.endswith("?"), question


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_ends_in_a_pointer(question):
    *parts, last = QUESTIONS[question].split("\n\n")
    assert parts
    assert re.match(r"(Held|Printed) by `", last), last
    for pointer in pointers(QUESTIONS[question]):
        assert "::" in pointer or "python " in pointer, pointer


@pytest.mark.parametrize("pointer", POINTERS)
def test_a_pointer_leads_somewhere(pointer, capsys):
    """To a test that is in its file, or a command with options that there are."""
    if "::" in pointer:
        file, name = pointer.split("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert name in names
        return
    words = shlex.split(pointer)
    while "=" in words[0]:  # a variable, such as KERAS_BACKEND=jax
        words = words[1:]
    assert words[0] == "python"
    if words[1] == "-m":
        check_module(words[2], words[3:], capsys)
    elif words[1] == "nice.py":
        parse_training(words[2:], nice.RECIPES, nice.build_encoder, list(layers.PRIORS))
    else:
        assert words[1] == "sample.py"
        sample.parse(words[2:])


def check_module(name, arguments, capsys):
    """Check that a program has these options, by its help."""
    if name == "pytest":
        return
    module = importlib.import_module(name)
    with pytest.raises(SystemExit) as stop:
        module.main([*arguments, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for word in arguments:
        if word.startswith("--"):
            assert word in printed


# --- The objective -------------------------------------------------------------------


class PriorAlone(nice.Flow):
    """A flow that leaves the log-determinant out of its objective."""

    def log_density(self, z, log_det):
        return self.prior.log_prob(z)


class DeterminantAlone(nice.Flow):
    """A flow that leaves the prior out of its objective."""

    def log_density(self, z, log_det):
        return log_det


def some_images(count, shape=(4, 2)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype="uint8")


def train_briefly(kind):
    """A flow of some kind after a hundred steps.

    Returns:
        The mean square of its codes' values, and whether its coupling has changed.
    """
    keras.utils.set_random_seed(0)
    coupling = layers.AdditiveCoupling(1, 8)
    flow = kind((4, 2), [coupling, layers.DiagonalScaling(4.0)])
    before = coupling.get_weights()
    flow.compile(keras.optimizers.Adam(0.02))
    images = some_images(6400)
    flow.fit(nice.Batches(images, 64), verbose=0)
    after = coupling.get_weights()
    pairs = zip(before, after, strict=True)
    changed = any(not np.array_equal(old, new) for old, new in pairs)
    return np.mean(flow.encode(images, noise=1.0) ** 2), changed


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_one_term_gathers_codes_and_the_other_spreads_them():
    """Together they settle where the mean square of each value is about 1."""
    size, _ = train_briefly(PriorAlone)
    assert size < 0.01
    size, changed = train_briefly(DeterminantAlone)
    assert size > 100
    assert not changed  # the log-determinant does not depend on the coupling
    size, _ = train_briefly(nice.Flow)
    assert size == pytest.approx(1, abs=0.2)


def test_the_unit_changes_nats_and_not_bits():
    """Division by 255 instead of 256, the scaling making up for it."""
    images = some_images(5)
    found = {}
    for levels in (255, 256):
        flow = nice.build_encoder((4, 2), couplings=0, levels=levels)
        scaling = flow.steps[-1]
        log_s = np.full(8, np.log(levels / 256)) / scaling.learning_rate_multiplier
        scaling.log_s_over_multiplier.assign(log_s)
        nats = flow.log_likelihood(images)
        found[levels] = nats, flow.bits_per_dimension(nats)
    gained = found[256][0] - found[255][0]
    np.testing.assert_allclose(gained, 8 * np.log(256 / 255), atol=1e-4)
    np.testing.assert_allclose(found[256][1], found[255][1], atol=1e-5)


# --- Couplings -----------------------------------------------------------------------


class SwapEvenAndOdd(layers.AdditiveCoupling):
    """A coupling that swaps even and odd positions, and reverses nothing."""

    reverses = False

    def call(self, x):
        x1 = x[:, 1::2]
        x2 = x[:, 0::2]
        return layers.interleave(x1, x2 - self.m(x1)), ops.zeros_like(x[:, 0])


class SwapHalves(layers.AdditiveCoupling):
    """A coupling of the first and the second half of the values, which it swaps."""

    reverses = False

    def call(self, x):
        x2, x1 = ops.split(x, 2, axis=-1)
        h = ops.concatenate([x1, x2 - self.m(x1)], axis=-1)
        return h, ops.zeros_like(x[:, 0])


class NoExchange(layers.AdditiveCoupling):
    """A coupling that always shifts the odd positions."""

    reverses = False

    def call(self, x):
        x1 = x[:, 0::2]
        x2 = x[:, 1::2]
        return layers.interleave(x1, x2 - self.m(x1)), ops.zeros_like(x[:, 0])


def dependencies(kind, couplings, size=8):
    """On how many of the values each value depends, after some couplings, sorted."""
    steps = []
    for i in range(couplings):
        step = kind(1, 32, output_activation="linear")
        step.build((None, size))
        steps.append(randomise(step, seed=i))

    def chain(x):
        for step in steps:
            x, _ = step(x)
        return x

    x = np.random.default_rng(0).uniform(0, 1, size)
    matrix = jacobian(chain, x)
    return sorted(np.count_nonzero(matrix, axis=1).tolist())


@pytest.mark.parametrize("kind", [layers.AdditiveCoupling, SwapEvenAndOdd, SwapHalves])
def test_after_three_couplings_every_value_depends_on_every_other(kind):
    assert dependencies(kind, 1) == [1] * 4 + [5] * 4
    assert dependencies(kind, 2) == [5] * 4 + [8] * 4
    assert dependencies(kind, 3) == [8] * 8


def test_without_an_exchange_half_of_the_values_stay():
    assert dependencies(NoExchange, 4) == [1] * 4 + [5] * 4


def test_swapping_even_and_odd_gives_the_codes_of_reversing():
    """If every other m reads and writes its values in reverse: a matter of order."""
    reversing = layers.AdditiveCoupling(1, 16), layers.AdditiveCoupling(1, 16)
    swapping = SwapEvenAndOdd(1, 16), SwapEvenAndOdd(1, 16)
    for seed, (one, other) in enumerate(zip(reversing, swapping, strict=True)):
        one.build((None, 8))
        other.build((None, 8))
        randomise(one, seed)
        other.set_weights(one.get_weights())
    kernel, bias, out_kernel, out_bias = reversing[0].get_weights()
    flipped = [kernel[::-1], bias, out_kernel[:, ::-1], out_bias[::-1]]
    swapping[0].set_weights(flipped)

    x = np.random.default_rng(0).uniform(0, 1, (3, 8)).astype("float32")
    codes = []
    for first, second in (reversing, swapping):
        h, _ = first(ops.convert_to_tensor(x))
        h, _ = second(h)
        codes.append(numpy(h))
    np.testing.assert_allclose(codes[1], codes[0], atol=1e-5)


@pytest.mark.parametrize(
    ("size", "passing"), [(5, [{0, 2, 4}, {0, 2, 4}]), (6, [{1, 3, 5}, {0, 2, 4}])]
)
def test_reversing_an_odd_number_keeps_even_places_even(size, passing):
    """The values, by their first places, that pass two couplings in turn unchanged."""
    values = np.arange(size)
    found = []
    for _ in range(2):
        values = values[::-1]
        found.append(set(values[0::2].tolist()))
    assert found == passing


@keras.saving.register_keras_serializable("questions")
class ConvolutionalCoupling(layers.AdditiveCoupling):
    """A coupling of images (4, 6): its m is a convolution of every other column."""

    def build(self, input_shape):
        self.m = keras.Sequential(name="m")
        self.m.add(keras.layers.Reshape((4, 3, 1), name="columns"))
        convolution = keras.layers.Conv2D(1, 3, padding="same", name="output")
        self.m.add(convolution)
        self.m.add(keras.layers.Flatten(name="values"))
        self.m.build((None, 12))


def test_m_may_be_a_convolution():
    steps = [ConvolutionalCoupling(), ConvolutionalCoupling()]
    flow = randomise(nice.Flow((4, 6), steps))
    images = some_images(3, (4, 6))
    np.testing.assert_allclose(flow.decode(flow.encode(images)), images, atol=0.01)
    matrix = jacobian(lambda x: flow(ops.reshape(x, (-1, 4, 6)))[0], images[0].ravel())
    _, log_det = np.linalg.slogdet(flow.levels * matrix.astype("float64"))
    assert log_det == pytest.approx(0, abs=1e-3)


# --- Labels --------------------------------------------------------------------------


def test_wrong_labels_only_change_what_is_drawn():
    rng = np.random.default_rng(0)
    right = np.arange(400) % 2
    z = (10 * right[:, None] + rng.normal(size=(400, 6))).astype("float32")
    fitted = mixture.fit(z, right, np.ones(6))
    assert fitted.sample(50, label=1).mean() == pytest.approx(10, abs=1)
    fitted = mixture.fit(z, 1 - right, np.ones(6))
    assert fitted.sample(50, label=1).mean() == pytest.approx(0, abs=1)


# --- Size, copies, other models ------------------------------------------------------


def test_the_parameters_of_64_by_64_colour_images():
    flow = nice.build_encoder((64, 64, 3))
    assert flow.count_params() == 65_208_864


def test_a_clone_has_no_loss():
    flow = nice.build_encoder((4, 2), hidden_layers=1, hidden_units=8)
    clone = keras.models.clone_model(flow)
    assert not hasattr(clone, "log_prob")
    again = nice.Flow.from_config(flow.get_config())
    assert again.log_prob(some_images(3)).shape == (3,)


def test_codes_are_features_of_another_model():
    flow = nice.build_encoder((4, 2), hidden_layers=1, hidden_units=8)
    flow.trainable = False
    image = keras.Input((4, 2))
    z, _ = flow(image)
    classes = keras.layers.Dense(2, "softmax")(z)
    classifier = keras.Model(image, classes)
    classifier.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    images = some_images(64).astype("float32")
    images[::2] /= 4
    labels = np.arange(64) % 2
    before = flow.log_likelihood(images)
    losses = classifier.fit(images, labels, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    np.testing.assert_array_equal(flow.log_likelihood(images), before)


# --- A prior of one's own ------------------------------------------------------------


class LaplacePrior:
    """The Laplace density in each dimension."""

    def log_prob(self, z):
        return -ops.sum(ops.abs(z) + np.log(2), axis=-1)

    def sample(self, count, size, temperature=1.0, seed=0):
        z = np.random.default_rng(seed).laplace(size=(count, size))
        return (temperature * z).astype("float32")


def test_a_prior_of_ones_own(monkeypatch, tmp_path):
    """It is known by its name, also to a program that loads the model."""
    small = {"hidden_layers": 1, "hidden_units": 8}
    with monkeypatch.context() as patch:
        patch.setitem(layers.PRIORS, "laplace", LaplacePrior)
        flow = randomise(nice.build_encoder((2,), prior="laplace", **small))
        side = np.linspace(-12, 12, 201)
        mesh = np.stack(np.meshgrid(side, side), axis=-1)
        nats = flow.log_likelihood(flow.levels * mesh.reshape(-1, 2), noise=0)
        cell = (side[1] - side[0]) ** 2
        assert np.exp(nats).sum() * cell == pytest.approx(1, abs=0.01)
        assert flow.sample(3).shape == (3, 2)
        flow.compile("adam")
        flow.fit(nice.Batches(some_images(64, (2,)), 64), verbose=0)
        flow.save(tmp_path / "nice.keras")
        assert nice.load(tmp_path / "nice.keras").prior_name == "laplace"
    with pytest.raises(UserError, match="KeyError: 'laplace'"):
        nice.load(tmp_path / "nice.keras")
