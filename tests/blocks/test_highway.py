from functools import partial

import keras
import numpy as np
import pytest

from cnnkit.analysis import macs
from cnnkit.blocks import highway_conv
from tests.contracts.parts import perturb
from tests.specs import Spec

SPECS = (
    Spec("block", "highway_conv", lambda: partial(highway_conv, size=2, gate_bias=-1.0, name="h")),
)


def model(**options):
    image = keras.Input((6, 5, 4), name="image")
    return keras.Model(image, highway_conv(image, name="h", **options))


def picture():
    return np.random.default_rng(1).normal(size=(2, 6, 5, 4)).astype("float32")


def branch(net, part):
    return np.asarray(keras.Model(net.input, net.get_layer(f"h_{part}").output)(picture()))


def gated(net, bias):
    gate = net.get_layer("h_gate")
    gate.set_weights([0 * gate.get_weights()[0], np.full(4, bias, "float32")])
    return np.asarray(net(picture()))


def test_a_closed_gate_passes_the_input_and_an_open_one_the_convolution():
    net = perturb(model())
    np.testing.assert_array_equal(gated(net, -200.0), picture())
    np.testing.assert_allclose(gated(net, 200.0), branch(net, "transform"), atol=1e-6)


def test_matches_the_formula():
    net = perturb(model())
    f, t = branch(net, "transform"), branch(net, "gate")
    want = f * t + picture() * (1 - t)
    np.testing.assert_allclose(net(picture()), want, rtol=1e-5, atol=1e-6)
    assert f.min() == 0
    assert ((t > 0) & (t < 1)).all()


def test_a_fresh_block_passes_most_of_its_input():
    net = model(gate_bias=-3.0)
    np.testing.assert_array_equal(net.get_layer("h_gate").bias, np.full(4, -3.0))
    assert abs(gated(net, -3.0) - picture()).mean() < 0.1


def test_costs_twice_a_convolution():
    net = model()
    assert net.count_params() == 2 * (9 * 4 * 4 + 4)
    assert macs.total(net) == 2 * 30 * 9 * 4 * 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 0}, ValueError, "`size` of highway_conv must be an integer >= 1"),
        ({"gate_bias": 1.0}, ValueError, r"`gate_bias` of highway_conv must be in \[-10.0, 0.0\]"),
        ({"gate_bias": None}, TypeError, "`gate_bias` of highway_conv must be a number"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        model(**options)
