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


def test_matches_the_formula():
    net = model()
    parts = []
    for part, patch in (
        ("conv", np.s_[:, 2:5, 2:5]),
        # At dilation 2, a 3x3 kernel sees 5x5 pixels.
        ("dilated", np.s_[:, 1:6:2, 1:6:2]),
        ("deconv", np.s_[:, 2:5, 2:5]),
    ):
        for group in (1, 2):
            kernel, bias = net.get_layer(f"m_{part}{group}").get_weights()
            if part == "deconv":  # (3, 3, outputs, inputs)
                # Every pixel spreads a 3x3 stamp: the kernel is read mirrored.
                kernel = kernel[::-1, ::-1].swapaxes(2, 3)
            x = reduced(net, f"{part}{group}")[patch]
            parts.append(relu(np.tensordot(x, kernel, 3) + bias))
    want = np.concatenate(parts, -1)
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
