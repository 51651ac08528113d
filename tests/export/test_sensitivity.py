import keras
import numpy as np
import pytest
from keras import layers

from export.formats import tflite
from export.quantization import sensitivity
from tests.contracts.parts import perturb
from tests.export import networks

X = networks.pictures(48)


@pytest.fixture(scope="module")
def rows():
    return sensitivity.measure(networks.everything(), X)


def by_name(rows):
    return {row.layer: row for row in rows}


def test_every_layer_that_is_rounded_has_a_row(rows):
    names = [row.layer for row in rows]
    assert names == [
        *("image", "pixels", "stem", "depthwise", "grouped", "residual", "squeeze", "reduce"),
        *("excite", "excite.activation", "both", "logits"),
    ]
    found = by_name(rows)
    assert found["stem"].kind == "Conv2D"
    assert found["stem"].weights_db > 25
    assert found["residual"].weights_db is None
    # What is joined has one grid.
    assert found["stem"].activations_db is None
    assert found["both"].activations_db > 25
    # Raw pixels are on their grid.
    assert found["image"].activations_db > 100
    assert (found["image"].low, found["image"].high) == (0.0, 255.0)


def test_the_noise_of_one_layer_by_hand():
    image = keras.Input((6, 6, 2), name="image")
    x = layers.GlobalAveragePooling2D(name="mean")(image)
    model = perturb(keras.Model(image, layers.Dense(3, name="logits")(x)))
    x = networks.pictures(20, (6, 6, 2)).astype("float32")
    kernel, bias = model.get_layer("logits").get_weights()
    step = np.abs(kernel).max() / 127
    rounded = np.rint(kernel / step) * step
    mean = x.mean((1, 2))
    want, got = mean @ kernel + bias, mean @ rounded + bias
    row = by_name(sensitivity.measure(model, x))["logits"]
    noise = 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum())
    assert row.weights_db == pytest.approx(noise, abs=0.05)
    assert row.low == pytest.approx(want.min(), rel=1e-5)
    assert row.high == pytest.approx(want.max(), rel=1e-5)
    # A uniform error of a step: its variance is a twelfth of the square.
    step = (max(want.max(), 0) - min(want.min(), 0)) / 255
    ideal = 10 * np.log10((want**2).mean() / (step**2 / 12))
    assert row.activations_db == pytest.approx(ideal, abs=1.5)


def test_it_finds_the_layer_that_spoils_the_file(tmp_path):
    model = networks.everything()
    kernel, bias = model.get_layer("depthwise").get_weights()
    # One loud channel takes the whole range, and the layer after it does not listen to it.
    kernel[..., 3, 0] *= 3000
    model.get_layer("depthwise").set_weights([kernel, bias])
    head = np.array(model.get_layer("grouped").kernel)
    head[:, :, 1, 2:4] = 0
    model.get_layer("grouped").kernel.assign(head)
    rows = sensitivity.measure(model, X)
    assert sensitivity.worst(rows, 1)[0].layer == "depthwise"
    assert by_name(rows)["depthwise"].activations_db < by_name(rows)["depthwise"].weights_db
    # And so it is in the file.
    want = np.asarray(model(X.astype("float32"), training=False))
    path = tflite.write(model, tmp_path / "m.tflite", variant="int8", calibration=X)
    assert networks.sqnr_db(want, tflite.run(path, X)) < 35  # 43 without that channel


def test_the_model_is_as_it_was():
    model = networks.tiny()
    before, config = model.get_weights(), model.to_json()
    sensitivity.measure(model, networks.pictures(8, (8, 8, 4)))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.to_json() == config


def test_table(rows):
    lines = sensitivity.table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert sum(line.endswith("| worst |") for line in lines) == 3
    assert {line.count("|") for line in lines} == {9}
