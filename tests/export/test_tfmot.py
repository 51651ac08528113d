"""TFMOT's own code on Keras 3 models: over to Keras 2, trained there, and back."""

import builtins
import os
import sys

import keras
import numpy as np
import pytest
from keras import layers

import cnnkit.data
from cnnkit.errors import UsageError
from export import tfmot
from export.formats import tflite
from tests.contracts.parts import perturb

SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (24, *SHAPE)).astype(np.float32)


def network(name, *body, shape=SHAPE):
    """A functional model of layers one after the other, each adding its input if that fits."""
    x = image = keras.Input(shape, name="image")
    x = layers.Rescaling([1 / 127.5, 1 / 128, 1 / 129], -1.0, name="pixels")(x)
    for layer in body:
        y = layer(x)
        same = isinstance(layer, layers.Conv2D) and y.shape == x.shape
        x = layers.Add(name=f"{layer.name}_add")([x, y]) if same else y
    x = layers.Dense(3, name="logits")(x)
    return perturb(keras.Model(image, layers.Softmax(name="probabilities")(x), name=name))


def convolutions():
    return network(
        "convolutions",
        layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem"),
        layers.BatchNormalization(name="stem_bn"),
        layers.ReLU(6.0, name="stem_relu"),
        layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depth"),
        layers.BatchNormalization(name="depth_bn"),
        layers.ReLU(name="depth_relu"),
        layers.Conv2D(8, 3, padding="same", activation="relu", name="residual"),
        layers.GlobalAveragePooling2D(name="mean"),
    )


def small():
    return network(
        "small",
        layers.Conv2D(8, 3, use_bias=False, name="stem"),
        layers.BatchNormalization(name="stem_bn"),
        layers.ReLU(name="stem_relu"),
        layers.DepthwiseConv2D(3, activation="relu", name="depth"),
        layers.GlobalAveragePooling2D(name="mean"),
    )


def dense():
    return network(
        "dense",
        layers.MaxPooling2D(name="pool"),
        layers.Flatten(name="flat"),
        layers.Dense(20, activation="relu", name="hidden"),
        layers.Dropout(0.1, name="dropout"),
    )


def other():
    return network(
        "other",
        layers.ZeroPadding2D(1, name="pad"),
        layers.SeparableConv2D(6, 3, strides=2, name="separable"),
        layers.LeakyReLU(0.2, name="leaky"),
        layers.Conv2DTranspose(4, 3, name="transposed", kernel_regularizer="l2"),
        layers.LayerNormalization(name="norm"),
        layers.Activation("tanh", name="tanh"),
        layers.AveragePooling2D(2, name="pool"),
        layers.Flatten(name="flat"),
    )


def sequential():
    body = [layers.Conv2D(4, 3, activation="relu", name="conv"), layers.Flatten(name="flat")]
    return perturb(keras.Sequential([keras.Input(SHAPE), *body, layers.Dense(3, name="logits")]))


def nested():
    x = image = keras.Input(SHAPE, name="image")
    x = layers.Dense(3, name="logits")(sequential()(x))
    return perturb(keras.Model(image, x, name="nested"))


def shared():
    x = image = keras.Input(SHAPE, name="image")
    twice = layers.Conv2D(3, 3, padding="same", activation="relu", name="twice")
    x = layers.Concatenate(name="both")([twice(twice(x)), x])
    return perturb(keras.Model(image, layers.Flatten(name="flat")(x), name="shared"))


NETWORKS = (convolutions, dense, other, sequential, nested, shared)


def same(a, b, x):
    return np.abs(np.asarray(a(x, training=False)) - np.asarray(b(x, training=False))).max() < 1e-5


def steps(n, lr=1e-3):
    """Trains for `n` steps on noise."""

    def train(model, callbacks):
        rng = np.random.default_rng(1)
        x = rng.integers(0, 256, (8 * n, *SHAPE)).astype(np.float32)
        y = np.eye(model.output_shape[-1], dtype=np.float32)[rng.integers(0, 3, 8 * n)]
        model.compile("adam", "categorical_crossentropy")
        model.optimizer.learning_rate = lr
        model.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks)

    return train


@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
def test_the_rebuilt_model_computes_the_same(make, pixels):
    model = make()
    assert same(model, tfmot.to_tf_keras(model), pixels / 64 - 2)
    assert same(model, tfmot.to_tf_keras(model), pixels)


def test_layers_that_keras_2_lacks_are_named():
    class Own(layers.Layer):
        def call(self, x):
            return x

    x = image = keras.Input(SHAPE)
    x = keras.ops.sin(Own(name="mine")(x))
    model = keras.Model(image, layers.RMSNormalization(name="rms")(x))
    with pytest.raises(UsageError, match=r"mine \(Own\), sin \(Sin\), rms \(RMSNormalization\)"):
        tfmot.to_tf_keras(model)


def test_a_layer_that_computes_something_else_is_named():
    model = network("hard", layers.Activation("hard_sigmoid", name="gate"), layers.Flatten())
    with pytest.raises(UsageError, match=r"computes something else: gate \(Activation\)"):
        tfmot.to_tf_keras(model)


def test_an_argument_that_keras_2_lacks_is_named():
    model = network("axis", layers.GroupNormalization(3, name="groups"), layers.Flatten())
    layer = model.get_layer("groups")
    layer.get_config = lambda: {"name": "groups", "news": 1}
    with pytest.raises(UsageError, match=r"argument of this layer: groups \(GroupNormalization\)"):
        tfmot.to_tf_keras(model)


def test_pruning_reaches_its_sparsity_and_comes_back(pixels):
    model = small()
    before = model.get_weights()
    seen = []

    def train(twin, callbacks):
        steps(10)(twin, callbacks)
        seen.append(np.asarray(twin(pixels, training=False)))

    pruned = tfmot.prune(model, train, steps=10, sparsity=0.75)
    assert type(pruned) is type(model)
    for name in ("stem", "logits"):
        kernel = np.asarray(pruned.get_layer(name).kernel)
        assert abs((kernel == 0).mean() - 0.75) <= 1 / kernel.size
    assert np.asarray(pruned.get_layer("depth").kernel).all()
    assert np.abs(np.asarray(pruned(pixels, training=False)) - seen[0]).max() < 1e-5
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pruning_that_stops_early_is_an_error():
    with pytest.raises(UsageError, match=r"Expected 10 steps\. Received 5"):
        tfmot.prune(dense(), steps(5), steps=10, sparsity=0.75)


def test_clustering_leaves_few_weights(pixels):
    model = small()
    clustered = tfmot.cluster(model, steps(3), clusters=4)
    for name in ("stem", "logits"):
        assert len(np.unique(clustered.get_layer(name).kernel)) <= 4
    assert len(np.unique(clustered.get_layer("depth").kernel)) > 4
    assert not same(model, clustered, pixels)


def test_quantization_aware_training_writes_an_int8_file(pixels, tmp_path):
    model, seen = small(), []

    def train(twin, callbacks):
        steps(3)(twin, callbacks)
        seen.append(np.asarray(twin(pixels, training=False)))

    plain = tfmot.quantize(model, train, tmp_path / "model.tflite")
    got = tflite.run(tmp_path / "model.tflite", pixels)
    assert np.abs(got - seen[0]).max() < 0.05
    assert {"int8"} <= {
        detail["dtype"].__name__
        for detail in tflite.interpreter(tmp_path / "model.tflite").get_tensor_details()
    }
    assert tflite.metadata(tmp_path / "model.tflite").input_shape == SHAPE
    for name in ("stem", "depth", "logits"):
        a, b = model.get_layer(name).get_weights()[0], plain.get_layer(name).get_weights()[0]
        assert 0 < np.abs(a - b).max() < 0.01


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (layers.LayerNormalization(name="norm"), r"Layer norm:.* is not supported"),
        (layers.SeparableConv2D(3, 3, name="separable"), r"takes these layers apart.*: separable"),
    ],
)
def test_what_tfmot_cannot_quantize_is_named(layer, told, tmp_path):
    model = network("strange", layer, layers.Flatten(name="flat"))
    with pytest.raises(UsageError, match=told):
        tfmot.quantize(model, steps(1), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_the_trainer_learns(npz, tmp_path):
    dataset = cnnkit.data.load(
        cnnkit.data.check(npz), image_size=None, channels=None, resize="letterbox"
    )
    x = image = keras.Input(dataset.image_shape, name="image")
    x = layers.Flatten(name="flat")(layers.Rescaling(1 / 255, name="pixels")(x))
    x = layers.Dense(16, activation="relu", name="hidden")(x)
    x = layers.Dense(len(dataset.classes), activation="softmax", name="probabilities")(x)
    model = keras.Model(image, x)
    train = tfmot.trainer(dataset, epochs=10, batch_size=16, lr=1e-2)
    small = tfmot.prune(model, train, steps=20, sparsity=0.5)
    pictures, labels = dataset.arrays("test")
    right = [
        (np.asarray(m(pictures, training=False)).argmax(1) == labels).mean() for m in (model, small)
    ]
    assert right[1] > 0.9 > right[0]


def test_keras_3_and_the_environment_stay_as_they_were():
    import tensorflow as tf

    tfmot.to_tf_keras(dense())
    assert tf.keras.version() == keras.version()
    assert "TF_USE_LEGACY_KERAS" not in os.environ


def test_a_missing_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "tensorflow_model_optimization":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "tensorflow_model_optimization", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install '\.\[tfmot\]'"):
        tfmot.to_tf_keras(dense())
