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


SIZES = {
    "conv1": (55, 96),
    "pool1": (27, 96),
    "norm1": (27, 96),
    "conv2": (27, 256),
    "pool2": (13, 256),
    "norm2": (13, 256),
    "conv3": (13, 384),
    "conv4": (13, 384),
    "conv5": (13, 256),
    "pool5": (6, 256),
}


@pytest.mark.parametrize(("name", "towers"), [("alexnet", 1), ("alexnet_grouped", 2)])
def test_the_sizes_of_table_3_1(name, towers, symbolic):
    model = symbolic(name, (227, 227, 3), 1000)
    for layer, (size, channels) in SIZES.items():
        parts = [m.output.shape[1:] for m in model.layers if m.name.endswith(layer)]
        assert parts == [(size, size, channels // towers)] * towers
    assert [model.get_layer(f"fc{i}").units for i in (6, 7)] == [4096, 4096]


def test_towers_halve_three_convolutions(symbolic):
    one, two = (symbolic(name, (227, 227, 3), 1000) for name in NAMES)
    saved = 27 * 27 * 25 * 96 * 256 + 13 * 13 * 9 * 384 * (384 + 256)
    assert macs.total(one) - macs.total(two) == saved / 2


def test_the_normalization_is_that_of_table_3_1():
    norm = models.build("alexnet", (67, 67, 3), 5, width=1 / 16).get_layer("norm1")
    assert (norm.k, norm.n, norm.alpha, norm.beta) == (2, 5, 1e-4, 0.75)


def test_the_towers_meet_twice():
    model = models.build("alexnet_grouped", (67, 67, 3), 5, width=1 / 16)
    inputs = {name: model.get_layer(name).input.shape[-1] for name in ("tower1_conv2", "fc6")}
    assert inputs == {"tower1_conv2": 3, "fc6": 16}
    assert model.get_layer("tower1_conv3").input is model.get_layer("concat2").output
    assert model.get_layer("tower2_conv3").input is model.get_layer("concat2").output


@pytest.mark.parametrize("width", [0.03, 0.11])
def test_towers_have_the_same_width(width):
    model = models.build("alexnet_grouped", (67, 67, 3), 5, width=width)
    filters = [model.get_layer(f"tower{t}_conv{i}").filters for t in (1, 2) for i in range(1, 6)]
    assert filters[:5] == filters[5:]
