from functools import partial

import keras
import numpy as np
import pytest

from cnnkit.analysis import macs
from cnnkit.blocks import conv_m
from tests.contracts.parts import perturb
from tests.specs import Spec

SPECS = (Spec("block", "conv_m", lambda: partial(conv_m, reduce=4, filters=6, name="m")),)


def model(reduce=4, filters=6, **options):
    image = keras.Input((7, 7, 5), name="image")
    return perturb(keras.Model(image, conv_m(image, reduce, filters, name="m", **options)))


def picture():
    return np.random.default_rng(1).normal(size=(2, 7, 7, 5)).astype("float32")


def relu(x):
    return np.maximum(x, 0)


def reduced(net, part):
    kernel, bias = net.get_layer(f"m_{part}_reduce").get_weights()
    return relu(picture() @ kernel[0, 0] + bias)


def grouped(patch, layer):
    """Two groups of a 3x3 convolution of one patch."""
    kernel, bias = layer.get_weights()
    halves = zip(np.split(patch, 2, -1), np.split(kernel, 2, -1), strict=True)
    return relu(np.concatenate([np.tensordot(x, k, 3) for x, k in halves], -1) + bias)


def test_matches_the_formula():
    net = model()
    plain = grouped(reduced(net, "conv")[:, 2:5, 2:5], net.get_layer("m_conv"))
    # At dilation 2, a 3x3 kernel sees 5x5 pixels.
    dilated = grouped(reduced(net, "dilated")[:, 1:6:2, 1:6:2], net.get_layer("m_dilated"))
    parts = []
    for i in (1, 2):
        kernel, bias = net.get_layer(f"m_deconv{i}").get_weights()  # (3, 3, outputs, inputs)
        # Every pixel spreads a 3x3 stamp: the kernel is read mirrored.
        mirrored = kernel[::-1, ::-1].swapaxes(2, 3)
        patch = reduced(net, f"deconv{i}")[:, 2:5, 2:5]
        parts.append(relu(np.tensordot(patch, mirrored, 3) + bias))
    want = np.concatenate([plain, dilated, *parts], -1)
    got = np.asarray(net(picture()))
    assert got.shape == (2, 7, 7, 18)
    np.testing.assert_allclose(got[:, 3, 3], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_costs(groups):
    net = model(groups=groups)
    weights = 3 * (5 * 4 + 9 * 4 * 6 // groups)
    assert macs.total(net) == 49 * weights
    assert net.count_params() == weights + 3 * (4 + 6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groups": 0}, ValueError, "`groups` of conv_m must be an integer >= 1"),
        ({"dilation": 0}, ValueError, "`dilation` of conv_m must be an integer >= 1"),
        ({"reduce": 2.0}, TypeError, "`reduce` of conv_m must be an integer >= 1"),
        ({"reduce": 3}, ValueError, "`reduce` of conv_m must be a multiple of groups=2"),
        ({"filters": 5}, ValueError, "`filters` of conv_m must be a multiple of groups=2"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        model(**options)
