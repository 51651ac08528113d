from functools import partial

import keras
import numpy as np
import pytest

from cnnkit.analysis import macs
from cnnkit.blocks import basic_block
from cnnkit.blocks import bottleneck_block
from tests.contracts.parts import perturb
from tests.specs import Spec

SPECS = (
    Spec("block", "basic_block", lambda: partial(basic_block, filters=6, strides=2, name="b")),
    Spec("block", "bottleneck_block", lambda: partial(bottleneck_block, filters=2, name="b")),
)


def model(block, shape=(6, 6, 8), **options):
    image = keras.Input(shape, name="image")
    return perturb(keras.Model(image, block(image, name="b", **options)))


def picture(net):
    return np.random.default_rng(1).normal(size=(2, *net.input_shape[1:])).astype("float32")


def relu(x):
    return np.maximum(x, 0)


def without_residual(net):
    *_, last = (layer for layer in net.layers if layer.name in ("b_2_bn", "b_3_bn"))
    last.gamma.assign(np.zeros(last.gamma.shape))
    last.beta.assign(np.zeros(last.beta.shape))
    return net


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize(("block", "filters"), [(basic_block, 8), (bottleneck_block, 2)])
def test_without_residual_the_input_passes(block, filters, shortcut):
    net = without_residual(model(block, filters=filters, shortcut=shortcut))
    x = picture(net)
    np.testing.assert_array_equal(net(x, training=False), relu(x))


@pytest.mark.parametrize(("block", "filters"), [(basic_block, 12), (bottleneck_block, 3)])
def test_shortcut_a_takes_every_second_pixel_and_appends_zeros(block, filters):
    net = without_residual(model(block, (5, 6, 8), filters=filters, strides=2, shortcut="A"))
    x = picture(net)
    want = np.concatenate([relu(x[:, ::2, ::2]), np.zeros((2, 3, 3, 4))], -1)
    np.testing.assert_array_equal(net(x, training=False), want)
    assert not any("shortcut" in weight.path for weight in net.weights)


@pytest.mark.parametrize(("block", "filters"), [(basic_block, 12), (bottleneck_block, 3)])
def test_shortcut_b_is_a_projection(block, filters):
    net = without_residual(model(block, (5, 6, 8), filters=filters, strides=2))
    x = picture(net)
    kernel = net.get_layer("b_shortcut_conv").get_weights()[0][0, 0]
    gamma, beta, mean, variance = net.get_layer("b_shortcut_bn").get_weights()
    want = relu((x[:, ::2, ::2] @ kernel - mean) / np.sqrt(variance + 1e-3) * gamma + beta)
    np.testing.assert_allclose(net(x, training=False), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("block", "filters"), [(basic_block, 8), (bottleneck_block, 2)])
def test_the_plain_twin_is_the_residual_alone(block, filters):
    plain = model(block, filters=filters, shortcut="none")
    net = model(block, filters=filters)
    assert [w.path for w in plain.weights] == [w.path for w in net.weights]
    plain.set_weights(net.get_weights())
    residual = keras.Model(net.input, net.get_layer("b_add").input[0])
    x = picture(net)
    np.testing.assert_allclose(
        plain(x, training=False), relu(np.asarray(residual(x, training=False))), rtol=1e-5
    )


def test_costs_of_figure_5():
    # The bottleneck has four times the channels at about the same cost.
    basic = model(basic_block, (8, 8, 64), filters=64)
    bottleneck = model(bottleneck_block, (8, 8, 256), filters=64)
    assert macs.total(basic) == 64 * 2 * 9 * 64 * 64
    assert macs.total(bottleneck) == 64 * (256 * 64 + 9 * 64 * 64 + 64 * 256)
    assert basic.count_params() == 2 * 9 * 64 * 64 + 2 * 4 * 64
    assert bottleneck.count_params() == 2 * 256 * 64 + 9 * 64 * 64 + 4 * (64 + 64 + 256)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"filters": 0}, ValueError, "`filters` of basic_block must be an integer >= 1"),
        ({"filters": 8.0}, TypeError, "`filters` of basic_block must be an integer >= 1"),
        ({"filters": 8, "strides": 0}, ValueError, "`strides` of basic_block"),
        ({"filters": 8, "shortcut": "C"}, ValueError, r"one of \('A', 'B', 'none'\).*'C'"),
        (
            {"filters": 6, "shortcut": "A"},
            ValueError,
            "Shortcut A of b_shortcut cannot take away channels. Received: 8 channels and 6 filt",
        ),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        model(basic_block, **options)
