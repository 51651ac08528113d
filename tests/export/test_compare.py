import keras
import numpy as np
import pytest
from keras import layers

from cnnkit.errors import UsageError
from cnnkit.training.predict import predict_keras
from export.quantization import compare
from tests.contracts.parts import perturb
from tests.export import networks

pytestmark = pytest.mark.export
SHAPE = (8, 8, 4)


@pytest.fixture(scope="module")
def model():
    return networks.tiny()


@pytest.fixture(scope="module")
def rows(model):
    x = networks.pictures(40, SHAPE, seed=1)
    y = predict_keras(model, x).argmax(1)
    y[:10] = (y[:10] + 1) % 3  # The model is right on three of four.
    return compare.compare(model, x, y, networks.pictures(64, SHAPE))


def test_every_tool_has_a_row_with_numbers(rows):
    assert [row.name for row in rows[2:]] == list(compare.QUANTIZERS)
    assert [row.error for row in rows] == [""] * 5
    keras, plain, *quantized = rows
    assert keras.accuracy == plain.accuracy == 0.75
    assert plain.agreement == 1
    assert plain.sqnr_db > 90
    for row in quantized:
        assert row.sqnr_db > 20, row
        assert row.agreement > 0.8
        assert abs(row.accuracy - 0.75) <= 1 - row.agreement + 1e-9
        assert 0 < row.max_abs < 0.1
        assert row.latency_ms > 0
        assert row.size_bytes > 1000


def test_one_that_fails_does_not_stop_the_others(model):
    x = networks.pictures(8, SHAPE)
    rows = compare.compare(model, x, None, x / 255, ["TFLite converter", "ONNX Runtime"])
    assert "not raw pixels" in rows[2].error
    assert rows[2].agreement is None
    assert rows[3].error == ""
    assert rows[3].accuracy is None


def test_an_unknown_tool_has_the_closest_names(model):
    x = networks.pictures(2, SHAPE)
    with pytest.raises(UsageError, match=r"Unknown quantizer 'onnx'\. Closest: .*ONNX Runtime"):
        compare.compare(model, x, None, x, ["onnx"])


def test_table(rows):
    lines = compare.table([*rows, compare.Row("broken", error="a | b")]).splitlines()
    assert len(lines) == 2 + len(rows) + 1
    assert {line.count("|") for line in lines} == {9}
    assert lines[2].startswith("| Keras, float32 |  | 75.00% |")
    assert lines[-1].endswith("| a / b |")


def test_constants_behind_the_flatbuffer_are_kept():
    """litert-quantizer writes constants of a kilobyte and more there."""
    image = keras.Input((4, 4, 8), name="image")
    x = layers.Rescaling(1 / 255, name="pixels")(layers.Flatten(name="flat")(image))
    x = layers.Dense(64, activation="relu", name="wide")(x)
    x = layers.Dense(3, activation="softmax", name="probabilities")(x)
    x, model = networks.pictures(40, (4, 4, 8)), perturb(keras.Model(image, x))
    row = compare.compare(model, x, None, x, ["litert-quantizer"])[2]
    assert row.error == ""
    assert row.size_bytes > 128 * 64
    assert row.agreement > 0.9


def test_files_are_those_of_the_formats(model, tmp_path):
    from export.formats import tflite

    x = networks.pictures(16, SHAPE)
    row = compare.compare(model, x, None, x, ["TFLite converter"])[2]
    path = tflite.write(model, tmp_path / "m.tflite", variant="int8", calibration=x)
    want = predict_keras(model, x)
    assert row.size_bytes == path.stat().st_size
    assert row.max_abs == pytest.approx(np.abs(tflite.run(path, x) - want).max(), abs=1e-7)
