import keras
import numpy as np
import pytest
from keras import layers
from numpy.lib.stride_tricks import sliding_window_view

from cnnkit import models
from cnnkit.errors import UsageError
from cnnkit.models.dense_to_conv import dense_to_conv
from export.formats import tflite
from tests.contracts.parts import perturb


def small(name, size, width=1 / 16, channels=3):
    return perturb(models.build(name, (size, size, channels), 5, width=width))


def pictures(height, width, channels=3):
    return np.random.default_rng(0).normal(size=(2, height, width, channels)).astype("float32")


# Network, picture size, total stride, a larger size.
NETWORKS = [
    ("vgg11", 64, 32, (96, 160)),
    ("vgg11_bn", 64, 32, (96, 160)),
    ("alexnet", 99, 32, (131, 195)),
    ("lenet5", 28, 4, (32, 40)),
    ("lenet5_caffe", 28, 4, (32, 40)),
    ("nin", 16, 4, (20, 28)),
    ("resnet8", 16, 4, (20, 28)),
    ("squeezenet1_0", 51, 16, (67, 99)),
]


@pytest.mark.parametrize(("name", "size", "stride", "larger"), NETWORKS)
def test_same_outputs_and_score_maps(name, size, stride, larger):
    model = small(name, size)
    x = pictures(size, size)
    before = model.get_weights()
    conv = dense_to_conv(model)
    kinds = (layers.Dense, layers.Flatten, layers.GlobalAveragePooling2D)
    assert not [layer for layer in conv.layers if isinstance(layer, kinds)]
    assert conv.count_params() == model.count_params()
    assert {w.path for w in conv.weights} == {w.path for w in model.weights}
    want = np.asarray(model(x, training=False))[:, None, None]
    np.testing.assert_allclose(conv(x, training=False), want, rtol=1e-4, atol=1e-5)
    rows, columns = ((side - size) // stride + 1 for side in larger)
    assert conv(pictures(*larger), training=False).shape == (2, rows, columns, 5)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


def pooled():
    x = image = keras.Input((11, 11, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="conv")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dense(6, name="hidden")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(0.5, name="dropout")(layers.ReLU(name="relu")(x))
    return perturb(keras.Model(image, layers.Dense(5, activation="softmax", name="scores")(x)))


@pytest.mark.parametrize(
    ("make", "size", "stride"),
    [(lambda: small("lenet5_caffe", 28), 28, 4), (pooled, 11, 2)],
    ids=["flatten", "pooling"],
)
def test_a_score_map_is_the_model_at_every_place(make, size, stride):
    model = make()
    x = pictures(size + 2 * stride, size + 3 * stride)
    windows = sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
    windows = np.moveaxis(windows, 3, -1).reshape(-1, size, size, 3)
    want = np.asarray(model(windows, training=False)).reshape(2, 3, 4, 5)
    got = dense_to_conv(model)(x, training=False)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_vgg16_has_the_convolutions_of_the_handbook():
    conv = dense_to_conv(small("vgg16", 224))
    assert conv.get_layer("fc1").kernel.shape == (7, 7, 512 // 16, 4096 // 16)
    assert conv.get_layer("fc2").kernel.shape == (1, 1, 4096 // 16, 4096 // 16)
    assert conv.get_layer("fc1").padding == "valid"


def test_sequential_nested_and_shared_layers():
    tower = keras.Sequential(
        [keras.Input((9, 9, 3)), layers.Conv2D(4, 3, name="last"), layers.ReLU(name="act")]
    )
    head = keras.Sequential(
        [keras.Input((5, 5, 4)), layers.Flatten(name="flat"), layers.Dense(5, name="logits")]
    )
    image = keras.Input((9, 9, 3), name="image")
    same = layers.Conv2D(4, 2, name="shared", padding="same")
    x = layers.Conv2D(4, 3, name="last")(same(same(tower(image))))
    model = perturb(keras.Model(image, head(keras.ops.relu(x))))
    x = pictures(9, 9)
    want = np.asarray(model(x))[:, None, None]
    conv = dense_to_conv(model)
    np.testing.assert_allclose(conv(x), want, rtol=1e-4, atol=1e-5)
    names = [layer.name for layer in conv.layers if layer.weights]
    assert names == ["last", "shared", "last_", "logits"]


def test_a_fixed_size_can_be_exported(tmp_path):
    conv = dense_to_conv(small("lenet5_caffe", 28), size=(32, 36))
    assert conv.output_shape == (None, 2, 3, 5)
    x = pictures(32, 36)
    path = tflite.write(conv, tmp_path / "conv")
    np.testing.assert_allclose(tflite.run(path, x), conv(x, training=False), atol=1e-5)


def gated(x):
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="mean")(x)
    gate = layers.Conv2D(3, 1, activation="sigmoid", name="gate")(gate)
    return layers.Flatten(name="flat")(layers.Multiply(name="gated")([x, gate]))


def normalized(x):
    return layers.BatchNormalization(name="norm")(layers.Flatten(name="flat")(x))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (gated, "Cannot make layer 'gated' convolutional: it joins vectors"),
        (normalized, "Cannot make layer 'norm' convolutional: what it does to a vector cannot be"),
        (
            lambda x: layers.Flatten(name="flat")(layers.PReLU(name="prelu")(x)),
            "Cannot make layer 'prelu' convolutional: it holds the old size of the picture",
        ),
        (
            lambda x: layers.Reshape((-1,), name="reshape")(x),
            "Cannot make layer 'logits' convolutional: it holds the old size of the picture",
        ),
        (lambda x: keras.ops.relu(layers.Flatten(name="flat")(x)), "'relu.*' convolutional: what"),
        (lambda x: x, "The model has no dense layer or global pooling on which its output depe"),
    ],
)
def test_refused(body, message):
    image = keras.Input((6, 6, 3), name="image")
    model = keras.Model(image, layers.Dense(5, name="logits")(body(image)), name="net")
    with pytest.raises(UsageError, match=message):
        dense_to_conv(model)


def test_refused_without_a_picture_of_known_size():
    image = keras.Input((None, None, 3), name="image")
    model = keras.Model(image, layers.GlobalAveragePooling2D(name="mean")(image), name="net")
    with pytest.raises(UsageError, match=r"'mean'.*\(None, None, None, 3\) is no map of known"):
        dense_to_conv(model)
    vector = keras.Input((4,), name="vector")
    with pytest.raises(
        UsageError, match=r"Cannot make this model convolutional: net.*\[\(None, 4\)\]"
    ):
        dense_to_conv(keras.Model(vector, layers.Dense(2, name="logits")(vector), name="net"))
