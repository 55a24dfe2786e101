"""The library: a model's methods, batches, and a model as any Keras model."""

from support import data

import nice

import copy
import pickle
import threading

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
        nice.fit_styles(model, images)


def test_floats_from_0_to_1_are_refused():
    """They would be nearly black, and training would learn the noise."""
    model = small()
    images = noise_images(20)
    for call in (nice.Batches, model.log_likelihood, model.encode):
        with pytest.raises(ValueError, match="multiply"):
            call(images / 255.0)
    with pytest.raises(ValueError, match="multiply"):
        nice.fit_styles(model, images / 255.0)
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
    nice.fit_styles(model, noise_images(1200), np.arange(1200) % 3)
    return model


def test_drawn_images_are_decoded_codes_clipped(fitted):
    for source in ("fitted", "prior"):
        z = fitted.sample_codes(20, 0.5, seed=3, source=source)
        decoded = fitted.decode(z)
        assert decoded.min() < 0  # else nothing here is clipped
        drawn = fitted.sample(20, 0.5, seed=3, source=source)
        assert drawn.dtype == "uint8" and drawn.shape == (20, 8, 8)
        np.testing.assert_array_equal(drawn, np.clip(decoded, 0, 255).astype("uint8"))


def test_what_a_draw_depends_on(fitted):
    drawn = fitted.sample_codes(8)
    np.testing.assert_array_equal(drawn, fitted.styles.sample(8, 0.8, 0))
    for other in ({"temperature": 1.0}, {"seed": 1}, {"source": "prior"}, {"label": 2}):
        assert not np.array_equal(fitted.sample_codes(8, **other), drawn)
    prior = fitted.sample_codes(8, source="prior")
    np.testing.assert_array_equal(prior, fitted.prior.sample(8, 64, 0.8, 0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "fited"}, "no source 'fited': choose 'fitted' or 'prior'"),
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


def test_a_model_without_styles_or_labels_says_so():
    model = small()
    with pytest.raises(ValueError, match="no styles are fitted"):
        model.sample(1)
    assert model.sample(2, source="prior").shape == (2, 8, 8)
    nice.fit_styles(model, noise_images(30))
    assert model.sample(2).shape == (2, 8, 8)
    with pytest.raises(ValueError, match="trained without labels"):
        model.sample(1, label=1)


def test_no_images_at_all(fitted):
    for source in ("fitted", "prior"):
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
    noisy.on_epoch_end()
    np.testing.assert_array_equal(contents(noisy), first)
    assert len(nice.Batches(images[:3], 100)) == 1


def test_what_fit_is_fed_are_the_batches():
    batches = nice.Batches(noise_images(250), 100)
    batches.start_epoch(2)
    expected = [batches[0][0], batches[1][0]]
    feed = batches.feed()
    if keras.backend.backend() == "tensorflow":
        fed = [numpy(x) for (x,) in feed]
    else:
        fed = [feed[i][0] for i in range(2)]
    np.testing.assert_array_equal(fed, expected)


# --- Plain Keras ---------------------------------------------------------------------


def test_plain_keras_works(tmp_path):
    model = small()
    images = noise_images(200)
    batches = nice.Batches(images, 50)
    model.compile("adam")
    losses = model.fit(batches, epochs=3, verbose=0).history["loss"]
    assert losses[2] < losses[0] and batches.epoch >= 3  # each epoch had its own noise
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
    """300 of them, by the resident size."""
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
    for seed in range(300):
        fitted.sample(4, seed=seed)
    assert resident() - before < 10e6


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
    images = noise_images(200)
    batches = nice.Batches(images, 50)
    held = nice.Batches(images[:50], 50, shuffle=False)
    epochs = []
    read = nice.Batches.__getitem__

    def note(self, i):
        epochs.append(self.epoch)
        return read(self, i)

    monkeypatch.setattr(nice.Batches, "__getitem__", note)
    recipe = nice.Recipe(epochs=2)
    history = nice.train(small(), batches, held, recipe, str(tmp_path / "a"))
    assert [row["epoch"] for row in history] == [1, 2]
    assert set(epochs) == {0, 1}  # each epoch has its own order and noise
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


# --- Styles of codes -----------------------------------------------------------------


def test_fit_styles_with_and_without_labels(capsys):
    model = small()
    images = noise_images(1200)
    nats = model.log_likelihood(images)
    numbers = np.arange(1200) % 3
    for labels in (numbers, np.eye(3)[numbers], numbers[:, None]):
        nice.fit_styles(model, images, labels)
        assert model.styles.labels == [0, 1, 2]
    assert model.sample(5, label=2).dtype == "uint8"
    np.testing.assert_array_equal(model.log_likelihood(images), nats)
    capsys.readouterr()
    for labels in (None, np.array(["a"] * 1200), np.full(1200, 0.5)):
        nice.fit_styles(model, images, labels)
        assert model.styles.mean_labels is None
        assert "without labels" in capsys.readouterr().out


def test_few_images_have_codes_too():
    model = small()
    for count in (1, 2, 30):
        nice.fit_styles(model, noise_images(count), np.arange(count) % 2)
        assert np.all(np.isfinite(model.sample_codes(3)))


def test_repeated_images_have_codes_too():
    model = small()
    nice.fit_styles(model, np.repeat(noise_images(2), 300, axis=0))
    assert np.all(np.isfinite(model.sample_codes(9)))


def test_real_mnist():
    (x_train, y_train), (x_test, y_test) = data.load()
    assert x_train.shape == (60_000, 28, 28) and x_test.shape == (10_000, 28, 28)
    assert x_train.dtype == "uint8" and y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert y_test[:5].tolist() == [7, 2, 1, 0, 4]
