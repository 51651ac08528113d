import keras
import numpy as np
import pytest

from cnnkit.layers import FeatureNormalization
from export.formats import tflite
from tests.specs import Spec

SPECS = (
    Spec(
        "layer",
        "FeatureNormalization",
        lambda: FeatureNormalization(4.0, learned=True),
        input_shape=(16,),
    ),
)


def test_the_vector_of_the_book():
    # Section 11.2.3. The inputs are printed with two digits, hence the tolerance.
    v = [0.0066, 0.0004, 0.0085, 0.0093, 0.0068, 0.0076, 0.0074, 0.0039, 0.0066, 0.0017]
    want = [0.3190, 0.0174, 0.4131, 0.4544, 0.3302, 0.3687, 0.3616, 0.1908, 0.3189, 0.0833]
    got = np.asarray(FeatureNormalization()(np.array([v])))[0]
    np.testing.assert_allclose(got, want, atol=0.003)
    np.testing.assert_allclose(got, v / np.linalg.norm(v), rtol=1e-5)


@pytest.mark.parametrize("learned", [False, True])
def test_matches_the_formula(learned):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype("float32")
    layer = FeatureNormalization(7.5, learned=learned)
    want = 7.5 * x / np.linalg.norm(x, axis=-1, keepdims=True)
    np.testing.assert_allclose(layer(x), want, rtol=1e-5)
    assert len(layer.trainable_weights) == learned


def test_scale_one_is_unit_normalization_and_the_input_scale_does_not_matter():
    x = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
    layer = FeatureNormalization()
    np.testing.assert_allclose(layer(x), keras.layers.UnitNormalization()(x), rtol=1e-6)
    np.testing.assert_allclose(layer(1000 * x), layer(x), rtol=1e-5)


def test_zeros_stay_zeros_without_a_gradient_that_is_not_finite():
    import tensorflow as tf

    x = tf.zeros((2, 4))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = FeatureNormalization()(x)
    assert not y.numpy().any()
    assert np.isfinite(tape.gradient(y, x)).all()


def test_large_values_in_half_precision():
    x = np.array([[3000, 4000]], "float16")
    np.testing.assert_allclose(FeatureNormalization(dtype="float16")(x), [[0.6, 0.8]], rtol=1e-3)


@pytest.mark.export
def test_zeros_stay_zeros_in_the_integer_file(tmp_path):
    image = keras.Input((16,))
    model = keras.Model(image, FeatureNormalization()(image))
    x = np.random.default_rng(0).normal(size=(16, 16)).astype("float32")
    x[0] = 0
    path = tflite.write(
        model, tmp_path / "net", variant="int8", calibration=x, input_type="float32"
    )
    got = tflite.run(path, x)
    np.testing.assert_array_equal(got[0], 0)
    np.testing.assert_allclose(got, model(x), atol=0.05)


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_bad_scale(scale):
    with pytest.raises(ValueError, match=r"`scale` of FeatureNormalization must be in \(0.0, inf"):
        FeatureNormalization(scale)
