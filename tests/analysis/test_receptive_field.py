import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras import ops

from cnnkit import models
from cnnkit.analysis import receptive_field
from cnnkit.errors import UsageError
from cnnkit.layers import LocalResponseNormalization
from cnnkit.layers import LpPooling2D
from cnnkit.layers import StochasticPooling2D
from cnnkit.onednn import unit_strides


def model_of(shape, *parts):
    return keras.Sequential([keras.Input(shape, name="image"), *parts])


def sizes(model):
    """Side of the field by layer; None is the whole picture."""
    rows = receptive_field.table(model)
    return {row.name: None if row.whole else row.size[0] for row in rows if row.size}


def test_three_3x3_see_7x7():
    # Section 3.1.1 of the book.
    rows = receptive_field.table(model_of((32, 32, 3), *(layers.Conv2D(4, 3) for _ in range(3))))
    assert [row.size for row in rows] == [(1, 1), (3, 3), (5, 5), (7, 7)]
    assert {row.jump for row in rows} == {(1, 1)}
    assert {row.start for row in rows} == {(0, 0)}
    assert [str(row) for row in rows][-1] == "7x7"


def test_vgg16():
    vgg = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    found = sizes(vgg)
    pools = [found[f"block{block}_pool"] for block in range(1, 6)]
    assert pools == [6, 16, 44, 100, 212]
    assert found["block5_conv3"] == 196
    last = receptive_field.table(vgg)[-1]
    assert (last.jump, last.start) == ((32, 32), (-90, -90))


def test_alexnet():
    # https://distill.pub/2019/computing-receptive-fields has 195 for alexnet_v2's pool5.
    found = sizes(models.build("alexnet", (227, 227, 3), 1000))
    assert [found[f"conv{layer}"] for layer in range(1, 6)] == [11, 51, 99, 131, 163]
    assert found["norm1"] == found["pool1"] == 19
    assert found["pool5"] == 195
    assert found["fc6"] is None


def test_resnet50_and_mobilenet():
    # The same table: 483 for resnet_v1_50, 315 for mobilenet_v1.
    resnet = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(224, 224, 3))
    largest = receptive_field.largest(resnet)
    assert (largest.size, largest.jump) == ((483, 483), (32, 32))
    mobile = keras.applications.MobileNet(
        weights=None, include_top=False, input_shape=(224, 224, 3)
    )
    largest = receptive_field.largest(mobile)
    assert (largest.size, largest.jump) == ((315, 315), (32, 32))


def residual():
    image = keras.Input((24, 24, 2))
    x = layers.Conv2D(3, 3, strides=2, padding="same")(image)
    y = layers.Conv2D(3, 5, padding="same")(layers.Conv2D(3, 3, padding="same")(x))
    return keras.Model(image, layers.Add()([x, y]))


def uneven_concatenation():
    image = keras.Input((24, 24, 2))
    shifted = layers.Conv2D(2, 3)(layers.ZeroPadding2D(((0, 2), (2, 0)))(image))
    wide = layers.Conv2D(2, 3, dilation_rate=3, padding="same")(image)
    return keras.Model(image, layers.Concatenate()([shifted, wide]))


def nested():
    inner = model_of((None, None, 3), layers.Conv2D(3, 3), layers.MaxPooling2D(2))
    image = keras.Input((24, 24, 2))
    return keras.Model(image, inner(inner(layers.Conv2D(3, 1)(image))))


def operations():
    image = keras.Input((24, 24, 2))
    x = ops.conv(image, np.ones((3, 5, 2, 2), "float32"), strides=2, padding="same")
    x = ops.average_pool(ops.relu(x) + 1.0, 3, 1)
    return keras.Model(image, ops.matmul(x, np.ones((2, 3), "float32")))


class Twice(layers.Layer):
    """Made of others."""

    def build(self, shape):
        self.inner = layers.Conv2D(shape[-1], 3, padding="same")
        self.inner.build(shape)

    def call(self, x):
        return self.inner(self.inner(x))


LOCAL = {
    "valid": lambda: model_of((24, 20, 2), layers.Conv2D(3, (5, 3), strides=(3, 2))),
    "same, even picture": lambda: model_of((24, 24, 2), layers.Conv2D(3, 3, 2, "same")),
    "same, odd picture": lambda: model_of((25, 25, 2), layers.Conv2D(3, 3, 2, "same")),
    "even kernel": lambda: model_of((25, 25, 2), layers.Conv2D(3, 4, 1, "same")),
    "dilation": lambda: model_of((25, 25, 2), layers.Conv2D(3, 3, dilation_rate=(2, 3))),
    "depthwise": lambda: model_of((24, 24, 2), layers.DepthwiseConv2D(3, 2)),
    "separable": lambda: model_of((24, 24, 2), layers.SeparableConv2D(3, 3, 2, "same")),
    "average": lambda: model_of((24, 24, 2), layers.AveragePooling2D(3, 2, "same")),
    "own pooling": lambda: model_of(
        (25, 25, 2), LpPooling2D(2.0, 3, 2, "same"), StochasticPooling2D(2)
    ),
    "normalization": lambda: model_of(
        (16, 16, 3), layers.Conv2D(3, 3), LocalResponseNormalization(), layers.Conv2D(3, 3)
    ),
    "padding and cropping": lambda: model_of(
        (24, 24, 2),
        layers.ZeroPadding2D(((1, 2), (3, 4))),
        layers.Conv2D(3, 3),
        layers.Cropping2D(((2, 1), (4, 3))),
    ),
    "signal": lambda: model_of((30, 2), layers.Conv1D(3, 3, padding="causal", dilation_rate=2)),
    "padded signal": lambda: model_of((30, 2), layers.ZeroPadding1D(2), layers.Conv1D(3, 3)),
    "volume": lambda: model_of((9, 9, 9, 1), layers.Conv3D(2, 3, 2, "same")),
    "centre": lambda: model_of((24, 24, 2), layers.CenterCrop(16, 16), layers.Conv2D(2, 3)),
    "residual": residual,
    "uneven concatenation": uneven_concatenation,
    "nested": nested,
    "operations": operations,
    "composite": lambda: model_of((24, 24, 2), Twice()),
}


def reached(model, unit):
    """First and last pixel, along each axis, that have a gradient from one output unit."""
    for weight in model.weights:
        if weight.dtype == "float32" and len(weight.shape) > 1:
            weight.assign(tf.random.uniform(weight.shape, 0.5, 1.0))
    rng = np.random.default_rng(0)
    seen = 0
    # Several pictures, since a maximum has one gradient only.
    x = tf.constant(rng.uniform(1, 2, (64, *model.input_shape[1:])).astype("float32"))
    with unit_strides(), tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(model(x)[(slice(None), *unit)])
    seen = np.abs(tape.gradient(y, x)).max((0, -1)) > 0
    axes = range(seen.ndim)
    along = [np.flatnonzero(seen.any(tuple(a for a in axes if a != axis))) for axis in axes]
    return [(int(places[0]), int(places[-1])) for places in along]


@pytest.mark.parametrize("make", LOCAL.values(), ids=LOCAL)
def test_the_field_is_where_the_gradient_reaches(make):
    model = make()
    row = receptive_field.table(model)[-1]
    assert not row.whole
    for part in (0, 2, 3):  # first unit, middle, last
        unit = [(side - 1) * part // 3 for side in model.output_shape[1:-1]]
        starts = [s + j * u for s, j, u in zip(row.start, row.jump, unit, strict=True)]
        ends = [start + size - 1 for start, size in zip(starts, row.size, strict=True)]
        sides = model.input_shape[1:-1]
        want = [
            (max(start, 0), min(end, side - 1))
            for start, end, side in zip(starts, ends, sides, strict=True)
        ]
        assert reached(model, unit) == want


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2DTranspose(2, 3, 2, "same"),
        layers.Conv2DTranspose(2, 4, 2, "same"),
        layers.Conv2DTranspose(2, 5, 3),
        layers.Conv2DTranspose(2, 3, 2, dilation_rate=1, padding="valid"),
        layers.UpSampling2D(2),
        layers.UpSampling2D(3, interpolation="bilinear"),
        layers.Resizing(48, 48),
    ],
    ids=lambda layer: f"{layer.name}",
)
def test_the_largest_field_behind_up_sampling(layer):
    model = model_of((24, 24, 2), layers.Conv2D(2, 3, padding="same"), layer)
    row = receptive_field.table(model)[-1]
    scale = round(1 / row.jump[0])
    widths = []
    for unit in range(8 * scale, 9 * scale):
        ((first, last), _) = reached(model, (unit, 12))
        widths.append(last - first + 1)
        # The units of one phase have the field that the row says.
        low = row.start[0] + row.jump[0] * unit
        assert low - 1 <= first <= low + 1
    assert max(widths) == row.size[0]


@pytest.mark.parametrize(
    "middle",
    [
        layers.GlobalAveragePooling2D(),
        layers.GlobalMaxPooling2D(keepdims=True),
        layers.Flatten(),
        layers.GroupNormalization(2),
        layers.Reshape((64, 4)),
        lambda x: ops.mean(x, (1, 2)),
        lambda x: ops.transpose(x, (0, 2, 1, 3)),
        lambda x: layers.Multiply()([x, layers.GlobalAveragePooling2D(keepdims=True)(x)]),
        lambda x: ops.matmul(ops.matmul(x, np.ones((4, 8), "float32")), x),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_sees_the_whole_picture(middle):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(image)
    model = keras.Model(image, layers.Dense(2, name="last")(middle(x)))
    row = receptive_field.table(model)[-1]
    assert row.whole
    assert row.size == (8, 8)
    assert row.start == (0, 0)
    assert str(row) == "whole"
    assert receptive_field.largest(model).size == (3, 3)


class Opaque(layers.Layer):
    """Nobody knows what it looks at."""

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        return tf.reverse(x, [1])


def test_what_is_not_known_sees_the_whole_picture():
    image = keras.Input((8, 8, 3))
    assert receptive_field.table(keras.Model(image, Opaque()(image)))[-1].whole


def test_the_whole_picture_keeps_its_jump_where_it_meets_a_map():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(image)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Conv2D(4, 3, strides=2)(layers.Multiply()([x, gate]))
    row = receptive_field.table(keras.Model(image, x))[-1]
    assert (row.whole, row.size, row.jump) == (True, (16, 16), (4, 4))


def test_without_places_there_is_no_field():
    model = model_of((5,), layers.Dense(3))
    assert receptive_field.table(model)[-1].size == ()
    assert receptive_field.largest(model) is None


def test_errors():
    with pytest.raises(UsageError, match="Cannot follow a model without a layer graph"):
        receptive_field.table(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(UsageError, match="Cannot follow a tensor of unknown size"):
        receptive_field.table(model_of((None, None, 3), layers.Conv2D(4, 3)))
