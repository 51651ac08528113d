import re

import keras
import numpy as np
import pytest
from keras import layers

from export import divergence
from export import formats
from export.limits import LIMITS
from tests.export import corners

pytestmark = pytest.mark.export
TRACED = [name for name, row in formats.FORMATS.items() if not divergence.missing(row)]
CHANGED = ("tflite", "tflite-int8", "tflite-mediapipe", "onnx", "onnx-int8")
LAYERS = ["first", "second", "pool", "logits", "probabilities"]


@pytest.fixture(scope="module")
def model():
    return corners.network(end="deployable")


@pytest.fixture(scope="module")
def spoiled():
    """The same network after somebody has changed one filter of its second convolution."""
    other = corners.network(end="deployable")
    kernel, bias = other.get_layer("second").get_weights()
    kernel[..., 3] = -5 * kernel[..., 3]
    other.get_layer("second").set_weights([kernel, bias])
    return other


def written(name, model, folder):
    row = formats.get(name)
    x, _ = corners.pictures(32)
    path = folder / row.path("net")
    row.load().write(model, path, variant=row.variant, calibration=x)
    return row, path


@pytest.mark.parametrize("name", TRACED)
def test_the_layers_of_a_good_file_are_those_of_the_model(name, model, bundle):
    row = formats.get(name)
    x, _ = corners.pictures(4)
    found = divergence.trace(row, bundle.folder / row.path(bundle.name), model, x)
    assert not found.strange
    assert [row.layer for row in found.rows if row.layer in LAYERS][-1] == "probabilities"
    assert {row.layer for row in found.rows} >= {*LAYERS}
    assert all(row.sqnr_db > LIMITS[name].layer_db for row in found.rows)
    assert found.told(LIMITS[name].layer_db).startswith("no layer is below ")


@pytest.mark.parametrize("name", CHANGED)
def test_the_layer_that_was_changed_is_named(name, model, spoiled, tmp_path):
    row, path = written(name, spoiled, tmp_path)
    x, _ = corners.pictures(4)
    found = divergence.trace(row, path, model, x)
    told = found.told(LIMITS[name].layer_db)
    least = f"{LIMITS[name].layer_db:g}"
    assert re.fullmatch(
        rf"first departs at layer second \(\w+\): \S+ dB, largest difference \S+, limit {least} dB",
        told,
    )
    before = [row for row in found.rows if row.layer in ("pixels", "first")]
    assert all(row.sqnr_db > LIMITS[name].layer_db for row in before)


def test_values_that_are_not_numbers_and_a_layer_that_is_silent():
    want = np.ones((2, 3))
    assert divergence._distance(want, want * np.nan) == (-np.inf, np.inf)
    assert divergence._distance(want, want) == (np.inf, 0.0)
    assert divergence._distance(0 * want, want) == (-np.inf, 1.0)
    assert divergence._distance(want, 1.1 * want) == pytest.approx((20.0, 0.1))
    row = divergence.Row("a", "Conv", -np.inf, np.inf)
    assert str(row) == "a (Conv): NaN or infinity"
    told = divergence.Trace([divergence.Row("b", "Conv", np.inf, 0.0), row]).told(10)
    assert told == "first departs at layer a (Conv): NaN or infinity, limit 10 dB"


def test_the_file_of_another_network_is_said_to_be_one(model, tmp_path):
    x = keras.Input(corners.SHAPE)
    y = layers.Conv2D(8, 3, activation="relu", padding="same", name="first")(x)
    other = keras.Model(x, layers.Dense(3, activation="softmax")(layers.Flatten()(y)))
    row, path = written("tflite", other, tmp_path)
    found = divergence.trace(row, path, model, corners.pictures(2)[0])
    assert found.told(60).startswith("its ops are not the model's: none is the CONV_2D that gives")
    assert found.strange.endswith("for layer second")


def test_a_savedmodel_has_a_reason():
    why = divergence.missing(formats.get("savedmodel"))
    assert why.startswith("savedmodel runs whole, in a process of its own")
    assert [name for name in formats.FORMATS if name != "savedmodel"] == TRACED
