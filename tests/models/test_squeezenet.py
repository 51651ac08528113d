import math

import pytest

from cnnkit import models
from cnnkit.analysis import macs
from tests.specs import Spec

SPECS = (
    Spec(
        "model",
        "squeezenet1_0",
        lambda: models.build("squeezenet1_0", (35, 35, 3), 5, width=1 / 8, bypass=True),
        input_shape=(35, 35, 3),
    ),
    Spec(
        "model",
        "squeezenet1_1",
        lambda: models.build("squeezenet1_1", (31, 31, 3), 5, width=1 / 8),
        input_shape=(31, 31, 3),
    ),
)
# Layer -> output of table 1.
TABLE_1 = {
    "conv1": (111, 111, 96),
    "pool1": (55, 55, 96),
    "fire2_concat": (55, 55, 128),
    "fire4_concat": (55, 55, 256),
    "pool4": (27, 27, 256),
    "fire8_concat": (27, 27, 512),
    "pool8": (13, 13, 512),
    "fire9_concat": (13, 13, 512),
    "conv10": (13, 13, 1000),
}


def test_the_maps_of_table_1(symbolic):
    model = symbolic("squeezenet1_0", (227, 227, 3), 1000)
    assert {name: model.get_layer(name).output.shape[1:] for name in TABLE_1} == TABLE_1
    size_bytes = 4 * sum(math.prod(v.shape) for v in model.weights)
    assert size_bytes / 2**20 == pytest.approx(4.8, abs=0.05)


def test_version_1_1_needs_2_4_times_less(symbolic):
    first, second = (
        macs.total(symbolic(name, (227, 227, 3), 1000))
        for name in ("squeezenet1_0", "squeezenet1_1")
    )
    assert first / second == pytest.approx(2.4, abs=0.1)


def test_bypass_adds_where_channels_agree_and_costs_nothing(symbolic):
    shape = ((227, 227, 3), 1000)
    plain, bypass = (symbolic("squeezenet1_0", *shape, bypass=flag) for flag in (False, True))
    assert [w.path for w in plain.weights] == [w.path for w in bypass.weights]
    added = [layer.name for layer in bypass.layers if layer.name.endswith("_add")]
    assert added == ["fire3_add", "fire5_add", "fire7_add", "fire9_add"]  # figure 2
    assert macs.total(plain) == macs.total(bypass)
