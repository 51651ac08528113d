import keras
import numpy as np
import pytest

from cnnkit.layers import LpPooling2D
from export.formats import tflite
from tests.layers.test_stochastic_pooling import each_window
from tests.specs import Spec

SPECS = (Spec("layer", "LpPooling2D", lambda: LpPooling2D(3.0, pool_size=3, strides=2)),)


def picture(shape=(2, 7, 9, 4)):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    x[:, :3, :3, 0] = 0
    return x


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 7.0])
@pytest.mark.parametrize(("size", "strides"), [(2, 2), (3, 2)])
def test_matches_the_formula(p, size, strides):
    x = picture()
    y = np.asarray(LpPooling2D(p, size, strides)(x))
    for (i, j), a in each_window(x, size, strides):
        want = np.linalg.norm(a.astype(float), p, axis=1)
        np.testing.assert_allclose(y[:, i, j], want, rtol=1e-5)


def test_infinity_is_max_pooling():
    x = np.abs(picture())
    want = keras.layers.MaxPooling2D(3, 2)(x)
    np.testing.assert_array_equal(LpPooling2D(np.inf, 3, 2)(x), want)
    np.testing.assert_allclose(LpPooling2D(1e4, 3, 2)(x), want, rtol=1e-3)


def test_one_is_average_pooling():
    x = np.abs(picture())
    want = 9 * np.asarray(keras.layers.AveragePooling2D(3)(x))
    np.testing.assert_allclose(LpPooling2D(1.0, 3)(x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-20, 1e20])
@pytest.mark.parametrize("p", [2.0, 64.0, 1000.0])
def test_no_power_over_or_underflows(factor, p):
    x = picture()
    want = factor * np.asarray(LpPooling2D(p)(x))
    got = np.asarray(LpPooling2D(p)(x * np.float32(factor)))
    np.testing.assert_allclose(got, want, rtol=1e-4)
    # Small windows beside large ones keep their norms.
    x[:, :, 4:] *= 1e6
    np.testing.assert_allclose(LpPooling2D(p)(x)[:, :, :2], want[:, :, :2] / factor, rtol=1e-4)


@pytest.mark.parametrize("p", [1.0, 2.0, 50.0, np.inf])
def test_a_window_of_zeros_gives_zero_and_no_gradient(p):
    import tensorflow as tf

    x = tf.constant(picture())
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = LpPooling2D(p, 3)(x)
    gradient = tape.gradient(y, x).numpy()
    assert np.isfinite(gradient).all()
    assert not y.numpy()[:, 0, 0, 0].any()
    assert not gradient[:, :3, :3, 0].any()


def test_padding_counts_as_zero():
    x = np.ones((1, 5, 5, 2), "float32")
    y = np.asarray(LpPooling2D(1.0, 3, 2, "same")(x))[0, :, :, 0]
    np.testing.assert_allclose(y, [[4, 6, 4], [6, 9, 6], [4, 6, 4]], rtol=1e-6)


@pytest.mark.export
def test_a_window_of_zeros_is_zero_in_the_integer_file(tmp_path):
    image = keras.Input((8, 8, 4))
    model = keras.Model(image, LpPooling2D(2.0)(image))
    x = picture((16, 8, 8, 4))
    path = tflite.write(
        model, tmp_path / "net", variant="int8", calibration=x, input_type="float32"
    )
    got = tflite.run(path, x)
    np.testing.assert_array_equal(got[:, 0, 0, 0], 0)
    np.testing.assert_allclose(got, model(x), atol=0.1)


@pytest.mark.parametrize("p", [0.5, -1.0, float("nan")])
def test_bad_order(p):
    with pytest.raises(ValueError, match=r"`p` of LpPooling2D must be in \[1.0, inf\]"):
        LpPooling2D(p)
