import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from cnnkit import models
from cnnkit.errors import UsageError
from cnnkit.training import data_dependent
from cnnkit.training.data_dependent import STARTS
from cnnkit.training.data_dependent import initialize
from cnnkit.training.data_dependent import rates


def chain(depth=3, end=True):
    layers = keras.layers
    x = image = keras.Input((12, 12, 2), name="image")
    for i in range(depth):
        x = layers.Conv2D(6 + 4 * i, 3, padding="same", name=f"conv{i}")(x)
        x = layers.ReLU(name=f"relu{i}")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Dense(20, activation="relu", name="hidden")(layers.Flatten(name="flatten")(x))
    x = layers.Dense(5, name="logits")(x)
    return keras.Model(image, layers.Softmax(name="softmax")(x) if end else x)


def pictures(n=128, shape=(12, 12, 2)):
    """Smooth pictures of a large mean, as real ones are."""
    noise = np.random.default_rng(0).normal(size=(n, *shape))
    return (100 + 40 * (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2))).astype("float32")


def outputs_before_activation(model, name, x):
    layer = model.get_layer(name)
    inputs = keras.Model(model.inputs[0], layer.input)(x)
    return np.asarray(
        layer(inputs) if name != "hidden" else np.asarray(inputs) @ layer.kernel + layer.bias
    )


@pytest.mark.parametrize("start", STARTS)
def test_every_channel_has_mean_0_and_variance_1_before_scales_are_moved(start, monkeypatch):
    monkeypatch.setattr(data_dependent, "_equalize", lambda *_: None)
    model, x = chain(), pictures()
    initialize(model, x, start)
    for name in ("conv0", "conv1", "conv2", "hidden", "logits"):
        y = outputs_before_activation(model, name, x)
        axes = tuple(range(y.ndim - 1))
        np.testing.assert_allclose(y.mean(axes), 0, atol=2e-3)
        np.testing.assert_allclose(y.std(axes), 1, rtol=2e-3)
    assert model.get_layer("hidden").activation is keras.activations.relu


@pytest.mark.parametrize("start", STARTS)
def test_layers_change_at_one_rate(start):
    model, x = chain(), pictures()
    found = list(rates(model, x).values())
    assert max(found) / min(found) > 2  # as Keras begins
    initialize(model, x, start)
    found = list(rates(model, x, seed=1).values())
    assert max(found) / min(found) < 1.4  # the draws of the losses differ


def test_moving_scales_does_not_change_the_function(monkeypatch):
    x = pictures()
    functions = []
    for equalize in (data_dependent._equalize, lambda *_: None):
        monkeypatch.setattr(data_dependent, "_equalize", equalize)
        model = chain(end=False)
        initialize(model, x, seed=3)
        functions.append((np.asarray(model(x)), model.get_weights()[0]))
    (moved, kernel), (as_it_was, other) = functions
    np.testing.assert_allclose(moved, as_it_was, rtol=1e-3, atol=1e-3)
    assert not np.allclose(kernel, other, rtol=0.05)


def test_a_residual_network_with_batch_normalization():
    x = pictures(64, (16, 16, 3))
    model = models.build("resnet8", (16, 16, 3), 5, width=0.5)
    before = list(rates(model, x).values())
    initialize(model, x)
    after = list(rates(model, x, seed=1).values())
    assert max(after) / min(after) < 0.5 * max(before) / min(before)
    # Batch normalization does in inference what it does in training.
    inference, training = (np.asarray(model(x, training=t)) for t in (False, True))
    np.testing.assert_allclose(inference, training, rtol=1e-2, atol=1e-2)
    assert np.isfinite(inference).all()


def test_pca_begins_with_the_components_and_goes_on_at_random(monkeypatch):
    monkeypatch.setattr(data_dependent, "_equalize", lambda *_: None)
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    x = (rng.normal(size=(128, 4)) * [8, 4, 2, 1]) @ basis.T
    image = keras.Input((4,), name="image")
    model = keras.Model(image, keras.layers.Dense(6, name="logits")(image))
    initialize(model, x, "pca")
    kernel = np.asarray(model.get_layer("logits").kernel)
    cosines = np.abs(basis.T @ (kernel / np.linalg.norm(kernel, axis=0)))
    np.testing.assert_allclose(cosines[:, :4], np.eye(4), atol=0.25)
    assert cosines[:, 4:].max() < 0.999
    assert np.linalg.norm(kernel, axis=0)[4:].min() > 0


def test_kmeans_points_each_filter_at_a_cluster(monkeypatch):
    monkeypatch.setattr(data_dependent, "_equalize", lambda *_: None)
    rng = np.random.default_rng(0)
    centres = np.concatenate([np.eye(3), -np.eye(3)]) * 5
    x = centres[rng.integers(6, size=128)] + 0.1 * rng.normal(size=(128, 3))
    image = keras.Input((3,), name="image")
    model = keras.Model(image, keras.layers.Dense(6, name="logits")(image))
    initialize(model, x, "kmeans")
    kernel = np.asarray(model.get_layer("logits").kernel)
    best = (centres @ kernel / np.linalg.norm(kernel, axis=0) / 5).max(0)
    assert best.min() > 0.9
    assert len(set((centres @ kernel).argmax(0))) >= 4


def test_dead_inputs_depthwise_groups_and_no_bias():
    x = pictures(32)
    x[..., 0] = 0
    layers = keras.layers
    image = keras.Input((12, 12, 2), name="image")
    y = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(image)
    y = layers.Conv2D(4, 3, groups=2, use_bias=False, name="grouped")(y)
    y = layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D(name="pool")(y))
    model = keras.Model(image, y)
    for start in ("random", "kmeans"):
        initialize(model, x, start)
        assert all(np.isfinite(w).all() for w in model.get_weights())
        assert np.asarray(model(x)).std() == pytest.approx(1, rel=0.05)


def test_same_seed_same_weights():
    x = pictures(64)
    found = []
    for seed in (0, 0, 1):
        model = chain(1)
        initialize(model, x, "kmeans", seed)
        found.append(model.get_weights()[0])
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])


def test_also_on_jax():
    code = (
        "import numpy as np\n"
        "from cnnkit.training.data_dependent import initialize, rates\n"
        "from tests.training.test_data_dependent import chain, pictures\n"
        "import keras; assert keras.backend.backend() == 'jax'\n"
        "model, x = chain(2), pictures(64)\n"
        "initialize(model, x)\n"
        "found = list(rates(model, x, seed=1).values())\n"
        "assert max(found) / min(found) < 1.5, found\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, env=environment, text=True
    )
    assert done.returncode == 0, done.stderr


def test_bad_arguments():
    with pytest.raises(ValueError, match="`start` of data_dependent must be one of"):
        initialize(chain(1), pictures(8), "ica")
    with pytest.raises(UsageError, match="functional model and pictures"):
        initialize(chain(1), pictures(0))
