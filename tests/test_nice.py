"""The library: a model's methods, batches, and a model as any Keras model."""

from support import backends, data

import layers
import nice

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from conftest import numpy, randomise


def small(shape=(8, 8), **options):
    flow = nice.build_encoder(shape, hidden_layers=1, hidden_units=8, **options)
    return randomise(flow)


def noise_images(count, shape=(8, 8)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype="uint8")


# --- Likelihood ----------------------------------------------------------------------


def test_an_images_likelihood_does_not_depend_on_its_batch():
    model = small()
    images = noise_images(600)
    nats = model.log_likelihood(images, noise=0)
    assert nats.shape == (600,)
    last = model.log_likelihood(images[599:], noise=0)
    np.testing.assert_allclose(last, nats[599:], rtol=1e-5)
    one_batch = numpy(model.log_prob(images[:5]))
    np.testing.assert_allclose(one_batch, nats[:5], rtol=1e-5)


def test_the_noise_of_a_likelihood():
    model = small()
    images = noise_images(3)
    nats = model.log_likelihood(images)
    np.testing.assert_array_equal(model.log_likelihood(images, noise=1), nats)
    assert not np.allclose(model.log_likelihood(images, seed=1), nats)
    assert not np.allclose(model.log_likelihood(images, noise=0), nats)


def test_bits_are_those_of_the_papers_nats():
    model = small((28, 28))
    assert model.bits_per_dimension(1980.5) == pytest.approx(4.356, abs=0.001)
    assert model.bits_per_dimension(0.0) == 8


@pytest.mark.parametrize(
    ("options", "words", "missing"),
    [
        ({}, "bits per dimension", "levels wide"),
        ({"noise": 0.0}, "bits per dimension", "levels wide"),
        ({"noise": 2.5}, "(noise 2.5 levels wide)", "bits"),
    ],
)
def test_how_a_likelihood_is_described(options, words, missing):
    model = small(**options)
    images = noise_images(50)
    line = nice.describe_likelihood(model, images)
    nats = model.log_likelihood(images, options.get("noise") or 1)
    error = nats.std(ddof=1) / np.sqrt(50)
    assert f"50 test images: {nats.mean():.2f} ± {error:.2f} nats" in line
    assert words in line and missing not in line
    assert "±" not in nice.describe_likelihood(model, images[:1])


@pytest.mark.parametrize("method", ["log_likelihood", "encode"])
@pytest.mark.parametrize(
    "images", [np.zeros((8, 8)), np.zeros((0, 8, 8)), np.zeros((2, 9, 8))]
)
def test_images_of_another_shape_are_refused(method, images):
    model = small()
    with pytest.raises(ValueError, match=r"takes images \(n, 8, 8\)"):
        getattr(model, method)(images)
    with pytest.raises(ValueError, match=r"takes images \(n, 8, 8\)"):
        nice.fit_mixture(model, images)


def test_floats_from_0_to_1_are_refused():
    """They would be nearly black, and training would learn the noise."""
    model = small()
    images = noise_images(20)
    for call in (nice.Batches, model.log_likelihood, model.encode):
        with pytest.raises(ValueError, match="multiply"):
            call(images / 255.0)
    with pytest.raises(ValueError, match="multiply"):
        nice.fit_mixture(model, images / 255.0)
    black = np.zeros((2, 8, 8), "float32")
    assert np.all(np.isfinite(model.log_likelihood(black)))
    grey = images.astype("float32")
    np.testing.assert_array_equal(model.encode(grey), model.encode(images))


def test_a_list_of_images_will_do():
    model = small()
    images = noise_images(3)
    nats = model.log_likelihood(images.tolist())
    np.testing.assert_array_equal(nats, model.log_likelihood(images))


# --- Drawing -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    model = small()
    nice.fit_mixture(model, noise_images(1200), np.arange(1200) % 3)
    return model


def test_drawn_images_are_decoded_codes_clipped(fitted):
    for source in ("mixture", "prior"):
        z = fitted.sample_codes(20, 0.5, seed=3, source=source)
        decoded = fitted.decode(z)
        assert decoded.min() < 0  # else nothing here is clipped
        drawn = fitted.sample(20, 0.5, seed=3, source=source)
        assert drawn.dtype == "uint8" and drawn.shape == (20, 8, 8)
        np.testing.assert_array_equal(drawn, np.clip(decoded, 0, 255).astype("uint8"))


def test_what_a_draw_depends_on(fitted):
    """Without another word the prior at T = 1; with a label the mixture."""
    drawn = fitted.sample_codes(8)
    np.testing.assert_array_equal(drawn, fitted.prior.sample(8, 64, 1.0, 0))
    for other in ({"temperature": 0.5}, {"seed": 1}, {"source": "mixture"}):
        assert not np.array_equal(fitted.sample_codes(8, **other), drawn)
    of_mixture = fitted.sample_codes(8, 0.5, 3, source="mixture")
    np.testing.assert_array_equal(of_mixture, fitted.mixture.sample(8, 0.5, 3))
    of_label = fitted.sample_codes(8, 0.5, 3, label=2)
    np.testing.assert_array_equal(of_label, fitted.mixture.sample(8, 0.5, 3, 2))


def test_grey_levels_are_values_without_half_of_the_noise():
    """Noise of one level: rounding down takes it off. No noise: the nearest level."""
    values = np.array([-3.0, 0.2, 0.7, 99.9, 255.9, 300.0])
    np.testing.assert_array_equal(nice.to_pixels(values, 1), [0, 0, 0, 99, 255, 255])
    np.testing.assert_array_equal(nice.to_pixels(values, 0), [0, 0, 1, 100, 255, 255])
    np.testing.assert_array_equal(nice.to_pixels(values, 16), [0, 0, 0, 92, 248, 255])


def test_codes_of_any_leading_shape_are_decoded(fitted):
    z = fitted.sample_codes(6)
    images = fitted.decode(z)
    single = fitted.decode(z[0])
    assert single.shape == (8, 8)
    np.testing.assert_allclose(single, images[0], rtol=1e-4, atol=0.01)
    grid = fitted.decode(z.reshape(2, 3, 64))
    np.testing.assert_array_equal(grid, images.reshape(2, 3, 8, 8))
    np.testing.assert_array_equal(fitted.decode(z.tolist()), images)
    with pytest.raises(ValueError, match="codes have 64 values each"):
        fitted.decode(z[:, 1:])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "fited"}, "no source 'fited': choose 'prior' or 'mixture'"),
        ({"label": 1, "source": "prior"}, "the prior knows no labels"),
        ({"label": 7}, "no label 7: the model has 0, 1, 2"),
        ({"label": "2"}, "label '2' is a str"),
        ({"label": True}, "label True is a bool"),
        ({"label": 2.0}, "label 2.0 is a float"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, words, fitted):
    with pytest.raises(ValueError, match=words):
        fitted.sample(2, **options)


def test_a_model_without_a_mixture_or_labels_says_so():
    model = small()
    with pytest.raises(ValueError, match="no mixture is fitted"):
        model.sample(1, source="mixture")
    assert model.sample(2).shape == (2, 8, 8)
    nice.fit_mixture(model, noise_images(30))
    assert model.sample(2, source="mixture").shape == (2, 8, 8)
    with pytest.raises(ValueError, match="trained without labels"):
        model.sample(1, label=1)


def test_no_images_at_all(fitted):
    for source in ("mixture", "prior"):
        assert fitted.sample(0, source=source).shape == (0, 8, 8)
    assert fitted.sample(0, label=1).shape == (0, 8, 8)


# --- Batches -------------------------------------------------------------------------


def contents(batches):
    return np.concatenate([batches[i][0] for i in range(len(batches))])


def test_order_and_noise_depend_only_on_seed_epoch_and_batch():
    images = np.arange(0, 250, dtype="uint8").reshape(250, 1, 1)
    batches = nice.Batches(images, 100, seed=3)
    first = contents(batches)
    assert first.dtype == "float32" and first.shape == (200, 1, 1)  # no smaller batch
    order = np.floor(first).astype(int).ravel()
    assert len(set(order)) == 200 and np.any(np.diff(order) < 0)
    u = first.ravel() - order
    assert u.min() >= 0 and u.max() <= 1
    assert abs(u.mean() - 0.5) < 0.1 and len(set(u)) > 190
    batches.start_epoch(1)
    second = contents(batches)
    assert not np.array_equal(np.floor(second).ravel(), order)
    assert not np.allclose(second % 1, first % 1, atol=0.01)
    again = nice.Batches(images, 100, seed=3)
    again.start_epoch(1)
    np.testing.assert_array_equal(contents(again), second)  # whatever was read before
    batches.start_epoch(0)
    np.testing.assert_array_equal(batches[1][0], first[100:])
    assert not np.array_equal(contents(nice.Batches(images, 100, seed=4)), first)


def test_the_order_of_an_epoch_is_drawn_once(monkeypatch):
    images = noise_images(500)
    drawn = []
    default_rng = np.random.default_rng

    def count(seed):
        drawn.append(seed)
        return default_rng(seed)

    monkeypatch.setattr(np.random, "default_rng", count)
    contents(nice.Batches(images, 100, seed=3))
    assert drawn == [[3, 0], [3, 0, 1], [3, 0, 2], [3, 0, 3], [3, 0, 4], [3, 0, 5]]


def test_to_measure_all_images_come_in_order():
    images = noise_images(250)
    batches = nice.Batches(images, 100, noise=0, shuffle=False)
    np.testing.assert_array_equal(contents(batches), images)
    noisy = nice.Batches(images, 100, shuffle=False)
    first = contents(noisy)
    noisy.start_epoch(3)
    np.testing.assert_array_equal(contents(noisy), first)
    assert len(nice.Batches(images[:3], 100)) == 1


def test_what_fit_is_fed_are_the_batches():
    batches = nice.Batches(noise_images(250), 100)
    batches.start_epoch(2)
    expected = [batches[0][0], batches[1][0]]
    feed = backends.prefetch(batches)
    if keras.backend.backend() == "tensorflow":
        fed = [numpy(x) for (x,) in feed]
    else:
        fed = [feed[i][0] for i in range(2)]
    np.testing.assert_array_equal(fed, expected)


def test_each_epoch_of_fit_has_its_own_order_and_noise(monkeypatch):
    """Without a callback of the user, also if fit goes on from a later epoch."""
    seen = []
    read = nice.Batches.__getitem__

    def note(self, i):
        batch = read(self, i)
        seen.append((self.epoch, i, float(batch[0].sum())))
        return batch

    model = small()
    model.compile("adam")
    batches = nice.Batches(noise_images(100), 50, seed=7)
    with monkeypatch.context() as patch:
        patch.setattr(nice.Batches, "__getitem__", note)
        model.fit(batches, epochs=4, initial_epoch=1, verbose=0)
    read_in_training = {entry for entry in seen if entry[0] > 0}
    expected = set()
    for epoch in (1, 2, 3):
        batches.start_epoch(epoch)
        expected |= {(epoch, i, float(batches[i][0].sum())) for i in range(2)}
    assert read_in_training == expected
    assert len({total for _, _, total in expected}) == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x // 255, "from 0 to 1 .*rescale"),  # 0 and 1, as integers
        (lambda x: x.astype("uint16") * 256, "rescale"),
        (lambda x: (x - 128.0) / 74, "rescale"),  # standardised
        (lambda x: x / 127.5 - 1, "rescale"),
        (lambda x: x / 255.0, "multiply them by 255"),
        (lambda x: x * np.float32(1.0000001 / 255), "multiply them by 255"),
        (lambda x: np.where(x > 250, np.nan, x), "no finite numbers"),
        (lambda x: x > 99, "multiply them by 255"),
    ],
)
def test_images_to_train_on_are_checked_strictly(change, words):
    images = change(noise_images(20))
    for use in (nice.Batches, lambda x: nice.fit_mixture(small(), x)):
        with pytest.raises(ValueError, match=words) as refusal:
            use(images)
        assert ("multiply" in words) == ("multiply" in str(refusal.value))


def test_images_to_measure_may_leave_the_range():
    """A density is defined there, too. What is not finite is refused."""
    model = small()
    images = 3.0 * noise_images(5) - 300
    assert np.all(np.isfinite(model.log_likelihood(images)))
    assert len(nice.Batches(images, shuffle=False)) == 1
    images[0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="no finite numbers"):
        model.encode(images)


def test_batches_take_a_list():
    images = noise_images(20)
    of_list = nice.Batches(images.tolist(), 10)
    np.testing.assert_array_equal(contents(of_list), contents(nice.Batches(images, 10)))


# --- Plain Keras ---------------------------------------------------------------------


def test_plain_keras_works(tmp_path):
    model = small()
    images = noise_images(200)
    batches = nice.Batches(images, 50)
    model.compile("adam")
    losses = model.fit(batches, epochs=3, verbose=0).history["loss"]
    assert losses[2] < losses[0] and batches.epoch == 2
    model.save(tmp_path / "mine.keras")
    nats = model.log_likelihood(images)
    loaded = nice.load(tmp_path / "mine.keras")
    np.testing.assert_array_equal(loaded.log_likelihood(images), nats)
    loaded = keras.saving.load_model(tmp_path / "mine.keras")  # with its optimiser
    same = nice.Batches(images, 50, shuffle=False)
    loss = model.evaluate(same, verbose=0)
    assert loaded.evaluate(same, verbose=0) == pytest.approx(loss, rel=1e-5)
    model.save_weights(tmp_path / "mine.weights.h5")
    other = nice.Flow.from_config(model.get_config())
    other.load_weights(tmp_path / "mine.weights.h5")
    np.testing.assert_array_equal(other.log_likelihood(images), nats)


def test_a_regulariser_of_a_step_counts():
    model = small()
    model.compile("adam")
    batches = nice.Batches(noise_images(50), 50, shuffle=False)
    before = model.evaluate(batches, verbose=0)
    kernel = model.steps[0].m.layers[0].kernel
    kernel.regularizer = keras.regularizers.L2(1.0)
    penalty = np.sum(numpy(kernel) ** 2)
    model.compile("adam")  # or TensorFlow would go on with the old graph
    after = model.evaluate(batches, verbose=0)
    assert after == pytest.approx(before + penalty, rel=1e-4)


def test_training_drops_the_mixture():
    """It was fitted to the codes of other weights."""
    model = small()
    images = noise_images(50)
    nice.fit_mixture(model, images)
    model.compile("adam")
    model.fit(nice.Batches(images, 50), verbose=0)
    assert model.mixture is None


def test_weights_of_samples_count():
    model = small()
    images = noise_images(40).astype("float32")
    before = model.get_weights()
    model.compile("sgd")
    fit = {"batch_size": 40, "verbose": 0, "shuffle": False}
    nothing = model.fit(images, sample_weight=np.zeros(40), **fit)
    assert nothing.history["loss"] == [0]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    nats = model.log_likelihood(images, noise=0)
    weights = np.arange(40) / 20
    weighted = model.fit(images, sample_weight=weights, **fit)
    assert weighted.history["loss"][0] == pytest.approx(
        -np.mean(weights * nats), rel=1e-4
    )


@keras.saving.register_keras_serializable("tests")
class Halved(nice.Flow):
    """A flow with a density of its own, which is none."""

    def log_density(self, z, log_det):
        return 0.5 * super().log_density(z, log_det)


def test_a_subclass_is_saved_as_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "use_xla", lambda: "auto")
    model = Halved((4, 2), [layers.DiagonalScaling()])
    images = noise_images(40, (4, 2))
    held = nice.Batches(images, 40, shuffle=False)
    recipe = nice.Recipe(epochs=1)
    history = nice.train(model, nice.Batches(images, 40), held, recipe, tmp_path)
    loaded = nice.load(tmp_path / "nice.keras")
    assert type(loaded) is Halved
    loss = -loaded.log_likelihood(images).mean()
    assert history[0]["val_loss"] == pytest.approx(loss, rel=1e-4)


class Kernel(layers.DiagonalScaling):
    """A scaling whose vector has the name that a matrix would have."""

    def build(self, input_shape):
        self.log_s_over_multiplier = self.add_weight(input_shape[1:], name="kernel")


def test_only_matrices_decay():
    """Whatever the names of the other weights are."""
    model = randomise(nice.Flow((4, 2), [layers.AdditiveCoupling(1, 8), Kernel()]))
    recipe = nice.Recipe(learning_rate=0.1, weight_decay=0.5, cooldown=0.0)
    adam = nice.make_optimizer(model, recipe, 1)
    adam.build(model.trainable_variables)
    before = model.get_weights()
    nothing = [keras.ops.zeros(weight.shape) for weight in model.trainable_variables]
    adam.apply(nothing, model.trainable_variables)
    for old, new in zip(before, model.get_weights(), strict=True):
        shrunk = 0.95 if old.ndim == 2 else 1.0
        np.testing.assert_allclose(new, shrunk * old, rtol=1e-5)


def test_many_batches_are_encoded_as_few_are():
    """They are compiled; four threads may do it at once."""
    model = small((4, 2))
    images = noise_images(10 * nice.EVALUATION_BATCH + 3, (4, 2))
    z = model.encode(images)
    few = model.encode(images[:20])
    np.testing.assert_allclose(z[:20], few, rtol=1e-4, atol=1e-4)
    last = model.encode(images[-3:])
    np.testing.assert_allclose(z[-3:], last, rtol=1e-4, atol=1e-4)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(model.encode, [images] * 4):
            np.testing.assert_array_equal(found, z)


def test_models_can_be_pickled_and_copied(fitted):
    images = noise_images(3)
    for again in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        nats = fitted.log_likelihood(images)
        np.testing.assert_array_equal(again.log_likelihood(images), nats)
        drawn = fitted.sample(3, label=1)
        np.testing.assert_array_equal(again.sample(3, label=1), drawn)


def test_four_threads_may_use_one_model(fitted):
    """As a web server does."""
    images = noise_images(40)
    expected = fitted.encode(images)
    nats = fitted.log_likelihood(images)
    drawn = fitted.sample(10)
    errors = []

    def work():
        try:
            for _ in range(5):
                np.testing.assert_allclose(fitted.encode(images), expected, rtol=1e-5)
                np.testing.assert_allclose(fitted.log_likelihood(images), nats)
                np.testing.assert_array_equal(fitted.sample(10), drawn)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    np.testing.assert_allclose(fitted.encode(images), expected, rtol=1e-5)


def test_draws_do_not_fill_the_memory(fitted):
    """150 of them, by the resident size."""
    resource = pytest.importorskip("resource")
    pages = resource.getpagesize()

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * pages

    try:
        resident()
    except FileNotFoundError:
        pytest.skip("the resident size is read from /proc")
    for seed in range(20):
        fitted.sample(4, seed=seed)
    before = resident()
    for seed in range(150):
        fitted.sample(4, seed=seed)
    assert resident() - before < 5e6


def test_two_models_have_weights_of_the_same_names():
    names = []
    for model in (small(), small()):
        if keras.backend.backend() == "torch":
            names.append(list(model.state_dict()))
        else:
            names.append([weight.path for weight in model.weights])
    assert names[0] == names[1]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
def test_jax_functions_take_a_model():
    import jax

    model = small()
    images = noise_images(3).astype("float32")
    nats = numpy(model.log_prob(images))
    np.testing.assert_allclose(jax.jit(model.log_prob)(images), nats, rtol=1e-4)
    gradient = jax.grad(lambda x: model.log_prob(x).sum())(images)
    assert gradient.shape == images.shape and np.all(np.isfinite(gradient))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")
def test_a_mirrored_strategy_trains_a_model():
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = small()
        model.compile("adam")
    losses = model.fit(nice.Batches(noise_images(100), 50), epochs=2, verbose=0)
    assert losses.history["loss"][1] < losses.history["loss"][0]


def test_train_from_python(tmp_path, monkeypatch):
    """Into a folder named by a string; a loaded model goes on from where it is."""
    monkeypatch.setattr(backends, "use_xla", lambda: "auto")  # XLA is slow to start
    images = noise_images(200)
    batches = nice.Batches(images, 50)
    held = nice.Batches(images[:50], 50, shuffle=False)
    recipe = nice.Recipe(epochs=2)
    history = nice.train(small(), batches, held, recipe, str(tmp_path / "a"))
    assert [row["epoch"] for row in history] == [1, 2]
    loaded = nice.load(tmp_path / "a" / "nice.keras")
    recipe = nice.Recipe(epochs=1, learning_rate=0.0)
    again = nice.train(loaded, batches, held, recipe, str(tmp_path / "b"))
    loss = history[-1]["val_loss"]
    assert again[0]["val_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="no SavedModel there")
def test_encoder_and_decoder_can_be_exported(tmp_path):
    tf = pytest.importorskip("tensorflow")
    model = small()
    images = noise_images(4).astype("float32")
    model.export(tmp_path / "encoder", verbose=False)
    model.decoder.export(tmp_path / "decoder", verbose=False)
    encoder = tf.saved_model.load(tmp_path / "encoder")
    decoder = tf.saved_model.load(tmp_path / "decoder")
    z, log_det = encoder.serve(images)
    np.testing.assert_allclose(z, model.encode(images), rtol=1e-3, atol=1e-4)
    assert log_det.shape == (4,)
    np.testing.assert_allclose(decoder.serve(z), images, atol=0.01)


# --- The mixture -----------------------------------------------------------------


def test_fit_mixture_with_and_without_labels(capsys):
    model = small()
    images = noise_images(1200)
    nats = model.log_likelihood(images)
    numbers = np.arange(1200) % 3
    for labels in (numbers, np.eye(3)[numbers], numbers[:, None]):
        nice.fit_mixture(model, images, labels)
        assert model.mixture.labels == [0, 1, 2]
    assert model.sample(5, label=2).dtype == "uint8"
    np.testing.assert_array_equal(model.log_likelihood(images), nats)
    capsys.readouterr()
    for labels in (None, np.array(["a"] * 1200), np.full(1200, 0.5)):
        nice.fit_mixture(model, images, labels)
        assert model.mixture.mean_labels is None
        assert "without labels" in capsys.readouterr().out


def test_few_images_have_codes_too():
    model = small()
    for count in (1, 2, 30):
        nice.fit_mixture(model, noise_images(count), np.arange(count) % 2)
        assert np.all(np.isfinite(model.sample_codes(3, source="mixture")))


def test_repeated_images_have_codes_too():
    model = small()
    nice.fit_mixture(model, np.repeat(noise_images(2), 300, axis=0))
    assert np.all(np.isfinite(model.sample_codes(9, source="mixture")))


def test_real_mnist():
    (x_train, y_train), (x_test, y_test) = data.load()
    assert x_train.shape == (60_000, 28, 28) and x_test.shape == (10_000, 28, 28)
    assert x_train.dtype == "uint8" and y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert y_test[:5].tolist() == [7, 2, 1, 0, 4]
