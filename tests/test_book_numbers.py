"""Worked examples of Wei 2017 that Keras' own parts must give."""

import keras
import numpy as np
import pytest

IMAGE = np.array(  # figure 2.3; what the text does not spell out is free
    [[1, 2, 3, 4, 5], [6, 7, 8, 9, 0], [9, 8, 7, 6, 5], [4, 3, 2, 1, 0], [1, 2, 3, 4, 5]]
)
KERNEL = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])


def test_2_3_first_window_of_the_convolution_is_27():
    conv = keras.layers.Conv2D(1, 3, use_bias=False)
    conv.build((None, 5, 5, 1))
    conv.kernel.assign(KERNEL[:, :, None, None])
    y = np.asarray(conv(IMAGE[None, :, :, None].astype("float32")))[0, :, :, 0]
    assert y.shape == (3, 3)  # H - h + 1
    assert y[0, 0] == 27
    windows = np.lib.stride_tricks.sliding_window_view(IMAGE, (3, 3))
    np.testing.assert_array_equal(y, (windows * KERNEL).sum((2, 3)))


def test_1_4_gradient_of_the_squared_error_is_the_difference():
    import tensorflow as tf

    x, y = tf.constant([1.0, -2.0, 0.5]), tf.constant([0.0, 1.0, 0.5])
    with tf.GradientTape() as tape:
        tape.watch(x)
        # Keras takes the mean of the squares; the book half their sum.
        loss = len(x) / 2 * keras.losses.MeanSquaredError()(y, x)
    np.testing.assert_allclose(tape.gradient(loss, x), x - y, rtol=1e-6)


def test_11_2_3_normalized_gradient_is_as_large_as_in_the_text():
    v = [0.0066, 0.0004, 0.0085, 0.0093, 0.0068, 0.0076, 0.0074, 0.0039, 0.0066, 0.0017]
    want = [0.3190, 0.0174, 0.4131, 0.4544, 0.3302, 0.3687, 0.3616, 0.1908, 0.3189, 0.0833]
    found = keras.ops.normalize(np.array([v], "float32"), axis=-1)[0]
    # The text has rounded `v` before it was printed.
    np.testing.assert_allclose(found, want, atol=0.05e-3 / np.linalg.norm(v))


def test_11_2_3_batch_normalization_is_algorithm_2_and_can_give_back_its_input():
    x = np.random.default_rng(0).normal(3, 2, (64, 5)).astype("float32")
    layer = keras.layers.BatchNormalization(epsilon=1e-5)
    layer.build(x.shape)
    mean, variance = x.mean(0), np.square(x - x.mean(0)).mean(0)
    normalized = (x - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(layer(x, training=True), normalized, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(normalized.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.var(0), 1, rtol=1e-4)
    layer.gamma.assign(np.sqrt(variance))
    layer.beta.assign(mean)
    np.testing.assert_allclose(layer(x, training=True), x, rtol=1e-4, atol=1e-4)


def test_10_1_to_10_3_penalties():
    w = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    l1, l2 = np.abs(w).sum(), np.square(w).sum()
    keras_l1, keras_l2, elastic = (
        keras.regularizers.L1(0.3),
        keras.regularizers.L2(0.5 * 0.3),  # the book's has a half
        keras.regularizers.L1L2(0.3, 0.2),
    )
    assert float(keras_l1(w)) == pytest.approx(0.3 * l1, rel=1e-5)
    assert float(keras_l2(w)) == pytest.approx(0.3 / 2 * l2, rel=1e-5)
    assert float(elastic(w)) == pytest.approx(0.3 * l1 + 0.2 * l2, rel=1e-5)


def test_10_4_max_norm_pulls_back_what_is_longer_alone():
    w = np.array([[3.0, 0.3], [4.0, 0.4]], "float32")  # of two units, of the lengths 5 and 0.5
    found = keras.constraints.MaxNorm(1.0)(w)
    np.testing.assert_allclose(found, [[0.6, 0.3], [0.8, 0.4]], rtol=1e-5)


def test_8_1_to_8_8_activations():
    x = np.linspace(-3, 3, 13).astype("float32")
    sigmoid = 1 / (1 + np.exp(-x))
    want = {
        "sigmoid": sigmoid,
        "tanh": 2 / (1 + np.exp(-2 * x)) - 1,
        "relu": np.maximum(0, x),
        "elu": np.where(x >= 0, x, np.exp(np.minimum(x, 0)) - 1),
    }
    for name, y in want.items():
        np.testing.assert_allclose(keras.activations.get(name)(x), y, atol=1e-6)
    leaky = keras.activations.leaky_relu(x, negative_slope=0.01)
    np.testing.assert_allclose(leaky, np.where(x >= 0, x, 0.01 * x), atol=1e-6)
    shared = keras.layers.PReLU(keras.initializers.Constant(0.25), shared_axes=[1, 2])
    pictures = np.broadcast_to(x[None, None, :, None], (1, 2, 13, 3))
    y = shared(pictures)
    assert shared.alpha.shape == (1, 1, 3)
    np.testing.assert_allclose(y, np.where(pictures >= 0, pictures, 0.25 * pictures), atol=1e-6)
