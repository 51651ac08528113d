import pytest

from cnnkit import models
from cnnkit.analysis import macs
from tests.specs import Spec


def spec(name):
    return Spec(
        "model",
        name,
        lambda: models.build(name, (67, 67, 3), 5, width=1 / 16),
        input_shape=(67, 67, 3),
    )


NAMES = ("alexnet", "alexnet_grouped")
SPECS = tuple(spec(name) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_sizes_of_table_3_1(name, symbolic):
    model = symbolic(name, (227, 227, 3), 1000)
    sizes = [
        model.get_layer(layer).output.shape[1:]
        for layer in ("conv1", "pool1", "norm1", "conv2", "pool2", "norm2", "conv3", "conv4")
    ]
    assert sizes == [
        (55, 55, 96),
        (27, 27, 96),
        (27, 27, 96),
        (27, 27, 256),
        (13, 13, 256),
        (13, 13, 256),
        (13, 13, 384),
        (13, 13, 384),
    ]
    assert model.get_layer("conv5").output.shape[1:] == (13, 13, 256)
    assert model.get_layer("pool5").output.shape[1:] == (6, 6, 256)
    assert [model.get_layer(f"fc{i}").units for i in (6, 7)] == [4096, 4096]


def test_groups_halve_three_convolutions(symbolic):
    one, two = (symbolic(name, (227, 227, 3), 1000) for name in NAMES)
    saved = 27 * 27 * 25 * 96 * 256 + 13 * 13 * 9 * 384 * (384 + 256)
    assert macs.total(one) - macs.total(two) == saved / 2


def test_the_normalization_is_that_of_table_3_1():
    norm = models.build("alexnet", (67, 67, 3), 5, width=1 / 16).get_layer("norm1")
    assert (norm.k, norm.n, norm.alpha, norm.beta) == (2, 5, 1e-4, 0.75)


@pytest.mark.parametrize("width", [0.03, 0.11])
def test_towers_have_the_same_width(width):
    model = models.build("alexnet_grouped", (67, 67, 3), 5, width=width)
    assert all(model.get_layer(f"conv{i}").filters % 2 == 0 for i in range(1, 6))
