import keras
import pytest
from keras import layers

from cnnkit import models
from cnnkit.analysis import lint
from cnnkit.errors import UsageError
from cnnkit.layers import HashedConv2D
from cnnkit.layers import LpPooling2D


def model_of(shape, *parts):
    return keras.Sequential([keras.Input(shape, name="image"), *parts])


def findings(model):
    return {finding.rule: finding for finding in lint.check(model)}


def test_vgg_keeps_every_rule():
    # Section 11.1 describes it: 3x3 kernels, padding 1, 64 to 512 filters, pooling 2x2.
    assert lint.check(models.build("vgg11", (224, 224, 3), 10)) == []
    assert lint.check(models.build("vgg11_bn", (64, 64, 3), 10)) == []


def test_alexnet_breaks_four_of_them():
    found = findings(models.build("alexnet", (227, 227, 3), 1000))
    assert list(found) == ["input size", "kernel size", "stride", "channels"]
    assert "227x227 (nearest: 224x224) in image" in found["input size"].text
    # Five 3x3 layers see 11x11 with 45 of 121 weights.
    assert "11x11 (as much is seen by 5 layers of 3x3, with 37%" in found["kernel size"].text
    assert found["stride"].layers == ("conv1",)
    assert "96 in conv1; 384 in conv3, conv4: powers of two" in found["channels"].text


def test_lenet_does_not_pad():
    found = findings(models.build("lenet5_caffe", (32, 32, 1), 10))
    assert found["padding"].layers == ("conv1", "conv2")
    assert "none, where 2 keeps the size, in conv1, conv2" in found["padding"].text


@pytest.mark.parametrize("side", [32, 96, 224, 448, 672])
def test_the_sizes_of_the_book(side):
    assert lint.check(model_of((side, side, 3), layers.Conv2D(8, 3, padding="same"))) == []


@pytest.mark.parametrize(
    ("part", "rule", "text"),
    [
        (layers.Conv2D(8, 7, padding="same"), "kernel size", "7x7.*3 layers of 3x3, with 55%"),
        (layers.DepthwiseConv2D(9, padding="same"), "kernel size", "9x9.*4 layers"),
        (layers.Conv2D(8, 4, padding="same"), "even kernel", r"4x4 in odd: only odd sizes f.*f-1"),
        (layers.Conv2D(8, 3, strides=2, padding="same"), "stride", "2x2 in odd: 1 is usual"),
        (layers.Conv2D(8, 3), "padding", "none, where 1 keeps the size, in odd"),
        (layers.Conv2D(8, 3, dilation_rate=2), "padding", "none, where 2 keeps the size"),
        (layers.Conv2D(24, 3, padding="same"), "channels", "24 in odd"),
        (layers.MaxPooling2D(4), "pooling size", "4x4 in odd: more than 3x3"),
        (layers.AveragePooling2D((5, 2)), "pooling size", "5x2 in odd"),
        (LpPooling2D(2.0, 4), "pooling size", "4x4 in odd"),
        (HashedConv2D(24, 3, padding="same"), "channels", "24 in odd"),
    ],
)
def test_each_rule(part, rule, text):
    part = type(part).from_config({**part.get_config(), "name": "odd"})
    model = model_of((32, 32, 4), part, layers.Conv2D(8, 1, name="last"))
    (finding,) = lint.check(model)
    assert (finding.rule, finding.layers) == (rule, ("odd",))
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(finding.text)


def test_normalization_behind_an_activation():
    before = [layers.Conv2D(8, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()]
    assert lint.check(model_of((32, 32, 3), *before)) == []
    fused = layers.Conv2D(8, 3, padding="same", activation="relu", name="fused")
    for after in ([fused], [layers.Conv2D(8, 1), layers.LeakyReLU(name="fused")]):
        model = model_of((32, 32, 3), *after, layers.BatchNormalization(name="late"))
        (finding,) = lint.check(model)
        assert (finding.rule, finding.layers) == ("normalization", ("late",))
        assert finding.text.startswith("behind fused in late: ")


@pytest.mark.parametrize(
    "parts",
    [
        # Padded by a layer of its own; a dense layer as a convolution; pooling of everything; as
        # many channels as classes.
        [layers.ZeroPadding2D(1), layers.Conv2D(8, 3)],
        [layers.AveragePooling2D(3), layers.Conv2D(8, 10)],
        [layers.AveragePooling2D(32)],
        [layers.Conv2D(10, 1), layers.GlobalAveragePooling2D()],
        [layers.GlobalAveragePooling2D(), layers.Dense(100), layers.Dense(10)],
    ],
)
def test_no_false_alarms(parts):
    assert lint.check(model_of((32, 32, 3), *parts)) == []


def test_many_layers_are_counted_and_nested_ones_named():
    inner = model_of(
        (32, 32, 3), *(layers.Conv2D(12, 3, padding="same", name=f"c{i}") for i in range(5))
    )
    inner.name = "inner"
    model = model_of((32, 32, 3), inner, layers.Conv2D(4, 1))
    (finding,) = lint.check(model)
    assert finding.layers == tuple(f"inner/c{i}" for i in range(5))
    assert "12 in inner/c0, inner/c1, inner/c2 and 2 more:" in finding.text


def test_errors():
    with pytest.raises(UsageError, match="Cannot follow a model without a layer graph"):
        lint.check(keras.Sequential([layers.Dense(3)]))
