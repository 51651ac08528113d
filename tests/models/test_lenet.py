import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from cnnkit import models
from tests.contracts.parts import perturb
from tests.specs import Spec

SPECS = (
    Spec("model", "lenet300", lambda: models.build("lenet300", (8, 8, 1), 5, width=0.1), (8, 8, 1)),
    Spec("model", "lenet5", lambda: models.build("lenet5", (12, 12, 3), 5, width=0.5), (12, 12, 3)),
    Spec(
        "model",
        "lenet5_caffe",
        lambda: models.build("lenet5_caffe", (16, 16, 3), 5, width=0.2),
        (16, 16, 3),
    ),
)

PARAMS = {
    "lenet300": (784 + 1) * 300 + (300 + 1) * 100 + (100 + 1) * 10,  # 266,610
    # C1 156, C5 48,120, F6 10,164 as in the paper; the RBF units become 850 weights.
    "lenet5": 156 + (6 * 25 + 1) * 16 + 48_120 + 10_164 + 850,
    "lenet5_caffe": 520 + 25_050 + 400_500 + 5_010,  # 431,080
}


@pytest.mark.parametrize("name", PARAMS)
def test_parameters_on_mnist(name):
    assert models.build(name, (28, 28, 1), 10).count_params() == PARAMS[name]


def conv(x, layer):
    kernel, bias = layer.get_weights()
    windows = sliding_window_view(x, kernel.shape[:2], (1, 2))  # (B, H, W, C, 5, 5)
    return np.einsum("bhwcij,ijcf->bhwf", windows, kernel) + bias


def pool(x, how):
    b, h, w, c = x.shape
    return how(x.reshape(b, h // 2, 2, w // 2, 2, c), (2, 4))


def dense(x, layer):
    kernel, bias = layer.get_weights()
    return x.reshape(len(x), -1) @ kernel + bias


def relu(x):
    return np.maximum(x, 0)


def lenet300(x, layer):
    return dense(relu(dense(relu(dense(x, layer("fc1"))), layer("fc2"))), layer("logits"))


def lenet5(x, layer):
    x = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    x = pool(np.tanh(conv(x, layer("conv1"))), np.mean)
    x = pool(np.tanh(conv(x, layer("conv2"))), np.mean)
    return dense(np.tanh(dense(np.tanh(dense(x, layer("fc1"))), layer("fc2"))), layer("logits"))


def lenet5_caffe(x, layer):
    x = pool(conv(pool(conv(x, layer("conv1")), np.max), layer("conv2")), np.max)
    return dense(relu(dense(x, layer("fc1"))), layer("logits"))


@pytest.mark.parametrize("formula", [lenet300, lenet5, lenet5_caffe], ids=lambda f: f.__name__)
def test_matches_the_formula(formula):
    model = perturb(models.build(formula.__name__, (28, 28, 1), 10))
    x = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype("float32")
    np.testing.assert_allclose(
        model(x, training=False), formula(x, model.get_layer), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "size", "last_map"),
    [("lenet5", 11, 2), ("lenet5", 12, 1), ("lenet5_caffe", 15, 3), ("lenet5_caffe", 16, 1)],
)
def test_small_pictures_are_padded(name, size, last_map):
    pooled = models.build(name, (size, size, 1), 10).get_layer("pool2").output
    assert pooled.shape[1:3] == (last_map, last_map)
