from functools import partial

import keras
import numpy as np
import pytest

from cnnkit.analysis import macs
from cnnkit.blocks import mlp_conv
from tests.contracts.parts import perturb
from tests.specs import Spec

SPECS = (Spec("block", "mlp_conv", lambda: partial(mlp_conv, filters=(6, 5, 3), size=3, name="m")),)


def model(filters=(6, 5, 3), size=3):
    image = keras.Input((6, 5, 4), name="image")
    return perturb(keras.Model(image, mlp_conv(image, filters, size, name="m")))


def test_is_a_dense_network_on_every_patch():
    net = model()
    x = np.random.default_rng(1).normal(size=(2, 6, 5, 4)).astype("float32")
    got = np.asarray(net(x))
    kernel, bias = net.get_layer("m_conv").get_weights()
    patch = x[:, 1:4, 2:5]  # around the pixel (2, 3)
    y = np.maximum(np.tensordot(patch, kernel, 3) + bias, 0)
    for part in ("m_mlp1", "m_mlp2"):
        kernel, bias = net.get_layer(part).get_weights()
        y = np.maximum(y @ kernel[0, 0] + bias, 0)
    np.testing.assert_allclose(got[:, 2, 3], y, rtol=1e-4, atol=1e-6)
    assert got.max() > 0


def test_costs():
    net = model()
    weights = 9 * 4 * 6 + 6 * 5 + 5 * 3
    assert macs.total(net) == 30 * weights
    assert net.count_params() == weights + 6 + 5 + 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 0}, ValueError, "`size` of mlp_conv must be an integer >= 1"),
        ({"filters": ()}, ValueError, "`filters` of mlp_conv must not be empty"),
        ({"filters": (6, 0)}, ValueError, "`filters` of mlp_conv must be an integer >= 1"),
        ({"filters": (6, "5")}, TypeError, "`filters` of mlp_conv must be an integer >= 1"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        model(**options)
