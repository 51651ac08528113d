import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnkit.layers import MeanImage
from export.formats import tflite
from tests.specs import Spec

SPECS = (Spec("layer", "MeanImage", MeanImage),)


def pictures(n=300):
    return np.random.default_rng(0).integers(0, 256, (n, 6, 5, 3)).astype("uint8")


def batches(x):
    return tf.data.Dataset.from_tensor_slices(x).batch(64)


@pytest.mark.parametrize("given", [lambda x: x, tf.constant, batches, lambda x: [x[:7], x[7:]]])
def test_subtracts_the_mean_of_the_training_data(given):
    x, other = pictures(), np.ones((2, 6, 5, 3), "float32")
    layer = MeanImage()
    layer.adapt(given(x))
    want = x.astype("float64").mean(0)
    np.testing.assert_allclose(layer.mean, want, rtol=1e-6)
    np.testing.assert_allclose(layer(other), other - want, rtol=1e-5)
    assert not layer.trainable_weights


def test_is_the_identity_before_and_zero_on_the_mean_after():
    x = pictures().astype("float32")
    layer = MeanImage()
    np.testing.assert_array_equal(layer(x), x)
    layer.adapt(x)
    np.testing.assert_allclose(layer(x).numpy().mean(0), 0, atol=1e-3)


def test_travels_with_the_model_and_its_file(tmp_path):
    image = keras.Input((6, 5, 3), name="image")
    layer = MeanImage(name="mean_image")
    x = keras.layers.Flatten(name="flat")(layer(image))
    model = keras.Model(image, keras.layers.Dense(2, name="logits")(x))
    layer.adapt(pictures())
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(again.get_layer("mean_image").mean, layer.mean)
    raw = pictures(8)
    want = np.asarray(model(raw.astype("float32")))
    np.testing.assert_allclose(
        tflite.run(tflite.write(model, tmp_path / "float"), raw.astype("float32")),
        want,
        rtol=1e-4,
        atol=1e-3,
    )
    # The integer file takes the pixels themselves.
    path = tflite.write(model, tmp_path / "int8", variant="int8", calibration=pictures())
    error = want - tflite.run(path, raw)
    assert 10 * np.log10(np.square(want).sum() / np.square(error).sum()) >= 25


def test_bad_data():
    layer = MeanImage()
    layer.adapt(pictures())
    with pytest.raises(ValueError, match=r"shape \(6, 5, 3\). Received: \(5, 5, 3\)"):
        layer.adapt(np.zeros((2, 5, 5, 3)))
    with pytest.raises(ValueError, match="one picture at least"):
        layer.adapt([])
    with pytest.raises(ValueError, match="pictures of known size"):
        MeanImage()(keras.Input((None, None, 3)))
