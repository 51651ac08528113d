from functools import partial

import keras
import numpy as np
import pytest

from cnnkit.analysis import macs
from cnnkit.blocks import fire
from tests.contracts.parts import perturb
from tests.specs import Spec

SPECS = (
    Spec("block", "fire", lambda: partial(fire, squeeze=3, expand=2, bypass=True, name="fire")),
)


def model(shape=(6, 5, 4), squeeze=3, expand=2, **options):
    image = keras.Input(shape, name="image")
    return perturb(keras.Model(image, fire(image, squeeze, expand, name="fire", **options)))


def picture():
    return np.random.default_rng(1).normal(size=(2, 6, 5, 4)).astype("float32")


def relu_conv(x, layer):
    kernel, bias = layer.get_weights()
    return np.maximum(np.tensordot(x, kernel, 3) + bias, 0)


def test_matches_the_formula():
    net = model()
    x = picture()
    kernel, bias = net.get_layer("fire_squeeze").get_weights()
    small = np.maximum(x @ kernel[0, 0] + bias, 0)
    one = relu_conv(small[:, 2:3, 3:4], net.get_layer("fire_expand1"))
    three = relu_conv(small[:, 1:4, 2:5], net.get_layer("fire_expand3"))
    want = np.concatenate([one, three], -1)
    np.testing.assert_allclose(np.asarray(net(x))[:, 2, 3], want, rtol=1e-4, atol=1e-6)
    around = model(bypass=True)
    around.set_weights(net.get_weights())
    np.testing.assert_allclose(
        np.asarray(around(x))[:, 2, 3], want + x[:, 2, 3], rtol=1e-4, atol=1e-6
    )


def test_costs_of_fire2():
    net = model((55, 55, 96), 16, 64)
    weights = 96 * 16 + 16 * 64 + 9 * 16 * 64
    assert net.count_params() == weights + 16 + 2 * 64 == 11_920  # table 1
    assert macs.total(net) == 55 * 55 * weights


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"squeeze": 0}, ValueError, "`squeeze` of fire must be an integer >= 1"),
        ({"expand": 2.5}, TypeError, "`expand` of fire must be an integer >= 1"),
        (
            {"expand": 3, "bypass": True},
            ValueError,
            "`bypass` of fire needs 6 channels, twice `expand`. Received: 4 channels",
        ),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        model(**options)
