"""The library: likelihood, batches, codes, and an encoder as any Keras model."""

import keras
import numpy as np
import pytest
from conftest import numpy, randomise

import layers
import nice
import sample
from support import data


def small(shape=(8, 8), **options):
    return randomise(nice.build_encoder(shape, hidden_layers=1, hidden_units=8, **options))


def noise_images(count, shape=(8, 8)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype="uint8")


# --- Likelihood ------------------------------------------------------------------------------


def test_an_images_likelihood_does_not_depend_on_its_batch():
    encoder, images = small(), noise_images(600)
    nats = nice.log_likelihood(encoder, images, noise=0)
    assert nats.shape == (600,)
    np.testing.assert_allclose(nice.log_likelihood(encoder, images[599:], 0), nats[599:], rtol=1e-5)


def test_the_noise_of_a_likelihood():
    encoder, images = small(), noise_images(3)
    nats = nice.log_likelihood(encoder, images)
    np.testing.assert_array_equal(nice.log_likelihood(encoder, images, noise=1), nats)
    assert not np.allclose(nice.log_likelihood(encoder, images, seed=1), nats)
    assert not np.allclose(nice.log_likelihood(encoder, images, noise=0), nats)


def test_bits_are_those_of_the_papers_nats():
    encoder = small((28, 28))
    assert nice.bits_per_dimension(1980.5, encoder) == pytest.approx(4.356, abs=0.001)
    assert nice.bits_per_dimension(0.0, encoder) == 8


@pytest.mark.parametrize(
    ("options", "words", "missing"),
    [
        ({}, "bits per dimension", "levels wide"),
        ({"noise": 0.0}, "bits per dimension", "levels wide"),
        ({"noise": 2.5}, "(noise 2.5 levels wide)", "bits"),
    ],
)
def test_how_a_likelihood_is_described(options, words, missing):
    encoder, images = small(**options), noise_images(50)
    line = nice.describe_likelihood(encoder, images)
    nats = nice.log_likelihood(encoder, images, options.get("noise") or 1)
    error = nats.std(ddof=1) / np.sqrt(50)
    assert f"50 test images: {nats.mean():.2f} ± {error:.2f} nats" in line
    assert words in line and missing not in line
    assert "±" not in nice.describe_likelihood(encoder, images[:1])


@pytest.mark.parametrize("f", [nice.log_likelihood, sample.encode, nice.fit_codes])
@pytest.mark.parametrize("images", [np.zeros((8, 8)), np.zeros((0, 8, 8)), np.zeros((2, 9, 8))])
def test_images_of_another_shape_are_refused(f, images):
    with pytest.raises(ValueError, match=r"takes images \(n, 8, 8\), n at least 1, not"):
        f(small(), images)


def test_a_list_of_images_will_do():
    encoder, images = small(), noise_images(3)
    nats = nice.log_likelihood(encoder, images.tolist())
    np.testing.assert_array_equal(nats, nice.log_likelihood(encoder, images))


# --- Batches ---------------------------------------------------------------------------------


def contents(batches):
    return np.concatenate([batches[i][0] for i in range(len(batches))])


def test_order_and_noise_depend_only_on_seed_epoch_and_batch():
    images = np.arange(0, 250, dtype="uint8").reshape(250, 1, 1)
    batches = nice.Batches(images, 100, seed=3)
    first = contents(batches)
    assert first.dtype == "float32" and first.shape == (200, 1, 1)  # the tail is dropped
    order = np.floor(first).astype(int).ravel()
    assert len(set(order)) == 200 and np.any(np.diff(order) < 0)
    u = first.ravel() - order
    assert u.min() >= 0 and u.max() <= 1 and abs(u.mean() - 0.5) < 0.1 and len(set(u)) > 190
    batches.epoch = 1
    second = contents(batches)
    assert not np.array_equal(np.floor(second).ravel(), order)
    assert not np.allclose(second % 1, first % 1, atol=0.01)
    again = nice.Batches(images, 100, seed=3)
    again.epoch = 1
    np.testing.assert_array_equal(contents(again), second)  # whatever was read before
    batches.epoch = 0
    np.testing.assert_array_equal(batches[1][0], first[100:])
    assert not np.array_equal(contents(nice.Batches(images, 100, seed=4)), first)


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
    batches.epoch = 2
    expected = [batches[0][0], batches[1][0]]
    fed = [numpy(x) for x, *_ in batches.feed()] if keras.backend.backend() == "tensorflow" else []
    fed = fed or [x for (x,) in (batches.feed()[i] for i in range(2))]
    np.testing.assert_array_equal(fed, expected)


# --- Plain Keras -----------------------------------------------------------------------------


def test_plain_keras_works(tmp_path):
    encoder, images = small(), noise_images(200)
    batches = nice.Batches(images, 50)
    encoder.compile("adam")
    history = encoder.fit(batches, epochs=3, verbose=0).history["loss"]
    assert history[2] < history[0] and batches.epoch >= 3  # each epoch had its own noise
    encoder.save(tmp_path / "mine.keras")
    loaded = nice.load_encoder(tmp_path / "mine.keras")
    np.testing.assert_array_equal(
        nice.log_likelihood(loaded, images), nice.log_likelihood(encoder, images)
    )
    cloned = keras.models.clone_model(encoder)
    cloned.set_weights(encoder.get_weights())
    z = sample.encode(cloned, images)
    np.testing.assert_allclose(sample.decode(cloned, z), images, atol=0.01)


def test_train_from_python(tmp_path, monkeypatch):
    """Into a folder named by a string; a loaded encoder goes on from where it is."""
    images = noise_images(200)
    batches, held = nice.Batches(images, 50), nice.Batches(images[:50], 50, shuffle=False)
    read, epochs = nice.Batches.__getitem__, []
    monkeypatch.setattr(
        nice.Batches, "__getitem__", lambda self, i: epochs.append(self.epoch) or read(self, i)
    )
    checkpoint = nice.train(small(), batches, held, nice.Recipe(epochs=2), str(tmp_path / "a"))
    assert [row["epoch"] for row in checkpoint.history] == [1, 2]
    assert set(epochs) == {0, 1}  # each epoch has its own order and noise
    loaded = nice.load_encoder(tmp_path / "a" / "nice.keras")
    loss = checkpoint.history[-1]["val_loss"]
    recipe = nice.Recipe(epochs=1, learning_rate=0.0)
    checkpoint = nice.train(loaded, batches, held, recipe, str(tmp_path / "b"))
    assert checkpoint.history[0]["val_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras exports no SavedModel there")
def test_encoder_and_decoder_can_be_exported(tmp_path):
    tf = pytest.importorskip("tensorflow")
    encoder, images = small(), noise_images(4).astype("float32")
    decoder = nice.build_decoder(encoder)
    encoder.export(tmp_path / "encoder", verbose=False)
    decoder.export(tmp_path / "decoder", verbose=False)
    f, g = (tf.saved_model.load(tmp_path / name) for name in ("encoder", "decoder"))
    z = f.serve(images)
    np.testing.assert_allclose(z, sample.encode(encoder, images), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(g.serve(z), images, atol=0.01)


# --- Codes -----------------------------------------------------------------------------------


def clusters(count=4000):
    """Points with two labels, of two clusters each, spread in few directions."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(4, size=count)
    means, axes = rng.normal(0, 10, (4, 12)), rng.normal(0, 1, (4, 3, 12))
    z = means[cluster] + np.einsum("ni,nij->nj", rng.normal(size=(count, 3)), axes[cluster])
    return z.astype("float32"), cluster // 2, cluster


def test_a_sampler_finds_each_labels_styles():
    z, labels, cluster = clusters()
    sampler = layers.CodeSampler.fit(z, labels, np.ones(12), styles=2, rank=3)
    assert sampler.labels == [0, 0, 1, 1]
    assert numpy(sampler.shares).sum() == pytest.approx(1)
    drawn = sampler.sample(8000, label=1)
    assert drawn.dtype == "float32" and drawn.shape == (8000, 12)
    real = z[labels == 1]
    np.testing.assert_allclose(drawn.mean(axis=0), real.mean(axis=0), atol=0.5)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(real.T), atol=0.08 * np.cov(real.T).max())
    cold = sampler.sample(50, temperature=0.0)
    centres = np.stack([z[cluster == k].mean(axis=0) for k in range(4)])
    far = np.linalg.norm(cold[:, None] - centres, axis=2).min(axis=1)
    assert far.max() < 0.01  # at temperature 0 codes lie at the means
    np.testing.assert_array_equal(sampler.sample(9, seed=1), sampler.sample(9, seed=1))
    with pytest.raises(ValueError, match=r"no label 7: the model has \[0, 1\]"):
        sampler.sample(1, label=7)


def test_a_sampler_measures_in_the_units_of_x():
    """A dimension that is only noise, stretched by the scaling, does not decide the styles."""
    rng = np.random.default_rng(0)
    h = np.stack([rng.integers(2, size=500) - 0.5, 1e-3 * rng.normal(size=500)], axis=1)
    sigma = np.array([1.0, 1e-5])
    sampler = layers.CodeSampler.fit(h / sigma, np.zeros(500), sigma, styles=2, rank=1)
    np.testing.assert_allclose(sorted(numpy(sampler.means)[:, 0]), [-0.5, 0.5], atol=0.01)


def test_axes_are_the_principal_directions():
    rows = clusters()[0]
    found = layers.principal_axes(rows, 5, np.random.default_rng(0))
    variances, directions = np.linalg.eigh(np.cov(rows.T, bias=True))
    np.testing.assert_allclose(np.sum(found**2, axis=1)[:3], variances[::-1][:3], rtol=0.02)
    assert abs(found[0] @ directions[:, -1]) == pytest.approx(variances[-1] ** 0.5, rel=0.01)


def test_fit_codes_with_and_without_labels(capsys):
    encoder, images = small(), noise_images(1200)
    one_hot = np.eye(3)[np.arange(1200) % 3]
    for labels in (np.arange(1200) % 3, one_hot, (np.arange(1200) % 3)[:, None]):
        fitted = nice.fit_codes(encoder, images, labels)
        assert set(fitted.get_layer("sampler").labels) == {0, 1, 2}
    assert sample.draw(fitted, 5, label=2).dtype == "uint8"
    np.testing.assert_array_equal(
        nice.log_likelihood(fitted, images), nice.log_likelihood(encoder, images)
    )
    capsys.readouterr()
    for labels in (None, np.array(["a"] * 1200), np.full(1200, 0.5)):
        fitted = nice.fit_codes(encoder, images, labels)
        assert set(fitted.get_layer("sampler").labels) == {None}
        assert "without labels" in capsys.readouterr().out
    again = nice.fit_codes(fitted, images)  # in place of the first
    assert [layer.name for layer in again.layers].count("sampler") == 1


@pytest.mark.parametrize("labels", [10, 300])
def test_a_sampler_of_mnist_takes_8_mb_and_no_more_with_many_labels(labels, monkeypatch):
    encoder = small((28, 28))
    images = np.zeros((40_000, 28, 28), "uint8")
    asked = []
    monkeypatch.setattr(nice, "Batches", lambda images, *_, **__: [(images[:1],)])
    monkeypatch.setattr(layers.CodeSampler, "fit", lambda *arguments: asked.append(arguments))
    with pytest.raises(TypeError):
        nice.fit_codes(encoder, images, np.arange(40_000) % labels)
    _, chosen, _, styles, rank = asked[0]
    assert len(chosen) * 784 * 4 <= 125_500_000
    assert styles * labels * (rank + 1) * 784 * 4 <= 8_000_000
    assert (styles, rank) == ((10, 24) if labels == 10 else (1, 7))


def test_few_images_have_codes_too():
    encoder = small()
    for count in (1, 2, 30):
        fitted = nice.fit_codes(encoder, noise_images(count), np.arange(count) % 2)
        assert np.all(np.isfinite(sample.draw(fitted, 3)))


def test_repeated_images_have_codes_too():
    images = np.repeat(noise_images(2), 300, axis=0)
    assert np.all(np.isfinite(nice.fit_codes(small(), images).get_layer("sampler").sample(9)))


def test_real_mnist():
    (x_train, y_train), (x_test, y_test) = data.load()
    assert x_train.shape == (60_000, 28, 28) and x_test.shape == (10_000, 28, 28)
    assert x_train.dtype == "uint8" and y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert y_test[:5].tolist() == [7, 2, 1, 0, 4]
