import keras
import numpy as np
import pytest

from cnnkit.layers import RReLU
from tests.specs import Spec

SPECS = (Spec("layer", "RReLU", lambda: RReLU(0.1, 0.4, seed=1)),)


def values():
    return np.random.default_rng(0).normal(size=(100, 200)).astype("float32")


def test_inference_is_leaky_relu_with_the_mean_slope():
    x = values()
    want = np.where(x >= 0, x, (1 / 8 + 1 / 3) / 2 * x)
    np.testing.assert_allclose(RReLU()(x), want, rtol=1e-6)
    np.testing.assert_allclose(RReLU()(x), keras.layers.LeakyReLU(11 / 48)(x), rtol=1e-6)


def test_training_draws_a_slope_for_each_value():
    x = values()
    y = np.asarray(RReLU(0.2, 0.6, seed=0)(x, training=True))
    np.testing.assert_array_equal(y[x >= 0], x[x >= 0])
    slopes = y[x < 0] / x[x < 0]
    assert slopes.min() >= 0.2 * (1 - 1e-6)
    assert slopes.max() <= 0.6 * (1 + 1e-6)
    # Mean and deviation of a uniform distribution, of ten thousand draws.
    np.testing.assert_allclose(slopes.mean(), 0.4, atol=0.005)
    np.testing.assert_allclose(slopes.std(), 0.4 / 12**0.5, atol=0.005)


def test_draws_differ_by_call_and_follow_the_seed():
    x, layer = values(), RReLU(seed=5)
    first, second = (np.asarray(layer(x, training=True)) for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(RReLU(seed=5)(x, training=True), first)


def test_the_gradient_is_the_slope():
    import tensorflow as tf

    x = tf.constant(values())
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = RReLU(seed=0)(x, training=True)
    np.testing.assert_allclose(tape.gradient(y, x), y / x, rtol=1e-5)


def test_no_width_is_leaky_relu():
    x = values()
    want = keras.layers.LeakyReLU(0.25)(x)
    np.testing.assert_allclose(RReLU(0.25, 0.25)(x, training=True), want, rtol=1e-6)


@pytest.mark.parametrize(
    ("slopes", "message"),
    [
        ((-0.1, 0.5), r"`lower` of RReLU must be in \[0.0, 1.0\]"),
        ((0.5, 0.2), r"`upper` of RReLU must be in \[0.5, 1.0\]"),
        ((0.5, 1.5), r"`upper` of RReLU must be in \[0.5, 1.0\]"),
    ],
)
def test_bad_slopes(slopes, message):
    with pytest.raises(ValueError, match=message):
        RReLU(*slopes)
