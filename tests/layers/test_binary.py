import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnkit.layers import BinaryConv2D
from cnnkit.layers import BinaryDense
from cnnkit.layers.binary import METHODS
from cnnkit.layers.binary import straight_through
from export.formats import onnx
from export.formats import tflite
from tests.specs import Spec

SPECS = (
    Spec(
        "layer",
        "BinaryDense",
        lambda: BinaryDense(6, "bwn", use_bias=True),
        input_shape=(20,),
    ),
    Spec(
        "layer",
        "BinaryConv2D",
        lambda: BinaryConv2D(6, 3, "bwn", strides=2, padding="valid", use_bias=True),
        input_shape=(9, 8, 4),
    ),
)
BINARY_INPUTS = ("bnn", "xnor")


def sign(x):
    return np.where(x >= 0, 1.0, -1.0).astype("float32")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(scale=0.7, size=shape).astype("float32")


def dense(method, w, **options):
    layer = BinaryDense(w.shape[1], method, **options)
    layer.build((None, w.shape[0]))
    layer.real_kernel.assign(w)
    return layer


@pytest.mark.parametrize("method", METHODS)
def test_dense_matches_the_formula(method):
    x, w = numbers(3, 7), numbers(7, 5, seed=1)
    x[0, 0] = w[0, 0] = 0  # sign(0) is +1
    alpha, k = np.abs(w).mean(0), np.abs(x).mean(1, keepdims=True)
    want = {
        "binary-connect": x @ sign(w),
        "stochastic": x @ sign(w),
        "bnn": sign(x) @ sign(w),
        "bwn": x @ sign(w) * alpha,
        "xnor": sign(x) @ sign(w) * alpha * k,
    }
    np.testing.assert_allclose(dense(method, w)(x), want[method], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("strides", "padding"), [(1, "valid"), (2, "same")])
def test_convolution_is_keras_on_signs(method, strides, padding):
    x, w = numbers(2, 7, 6, 4), numbers(3, 3, 4, 5, seed=1)
    layer = BinaryConv2D(5, 3, method, strides, padding)
    layer.build(x.shape)
    layer.real_kernel.assign(w)
    conv = tf.nn.conv2d(
        sign(x) if method in BINARY_INPUTS else x, sign(w), strides, padding.upper()
    ).numpy()
    if method in ("bwn", "xnor"):
        conv = conv * np.abs(w).mean((0, 1, 2))
    if method == "xnor":  # K = A * k, with k of 1 / (w h)
        a = np.abs(x).mean(-1, keepdims=True)
        conv = conv * tf.nn.conv2d(a, np.full((3, 3, 1, 1), 1 / 9, "f"), strides, padding.upper())
    np.testing.assert_allclose(layer(x), conv, rtol=1e-5, atol=1e-5)


def test_alpha_is_the_best_scale():
    """Eq. 6 of XNOR-Net minimises `|W - alpha B|^2`."""
    w = numbers(50, 1)
    kernel = np.asarray(dense("bwn", w).kernel(training=False))
    alpha = np.abs(kernel[0, 0])
    error = [np.square(w - a * sign(w)).sum() for a in (alpha - 0.01, alpha, alpha + 0.01)]
    assert error[1] < min(error[0], error[2])


def test_gradient_goes_straight_through_inside_of_1():
    x = tf.constant([-1.5, -1.0, -0.2, 0.0, 0.7, 1.0, 1.01])
    upstream = tf.constant([1.0, 2, 3, 4, 5, 6, 7])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = straight_through(x, tf.zeros(()))
    assert y.numpy().tolist() == [-1, -1, -1, 1, 1, 1, 1]
    assert tape.gradient(y, x, upstream).numpy().tolist() == [0, 2, 3, 4, 5, 6, 0]


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_their_formulas(method):
    x, w, upstream = numbers(3, 7), numbers(7, 5, seed=1), numbers(3, 5, seed=2)
    layer = dense(method, w)
    w = np.asarray(layer.real_kernel)
    variable = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        y = layer(variable)
    of_x, of_w = tape.gradient(y, [variable, layer.real_kernel.value], upstream)
    binary_x, _, scaled_x = METHODS[method][0], *METHODS[method][1:]
    alpha = np.abs(w).mean(0) if METHODS[method][1] else np.ones(5)
    k = np.abs(x).mean(1, keepdims=True) if scaled_x else np.ones((3, 1))
    inner = sign(x) if binary_x else x
    of_kernel = inner.T @ (upstream * k)  # dC / d(B alpha)
    want_w = of_kernel * alpha * (np.abs(w) <= 1)
    if METHODS[method][1]:
        want_w = want_w + (of_kernel * sign(w)).sum(0) / 7 * np.sign(w)
    want_x = (upstream * k) @ (sign(w) * alpha).T
    if binary_x:
        want_x = want_x * (np.abs(x) <= 1)
    if scaled_x:
        of_k = (upstream * (inner @ (sign(w) * alpha))).sum(1, keepdims=True)
        want_x = want_x + of_k / 7 * np.sign(x)
    np.testing.assert_allclose(of_w, want_w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_x, want_x, rtol=1e-4, atol=1e-5)


def test_stochastic_weights_are_plus_one_with_the_hard_sigmoid_of_w():
    w = np.repeat([[-1.0, -0.5, 0.0, 0.6, 1.0]], 4000, axis=0)
    layer = dense("stochastic", w, seed=0)
    drawn = np.asarray(layer.kernel(training=True))
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    np.testing.assert_allclose((drawn > 0).mean(0), [0, 0.25, 0.5, 0.8, 1], atol=0.03)
    assert not np.array_equal(drawn, layer.kernel(training=True))
    np.testing.assert_array_equal(layer.kernel(training=False), sign(w))


@pytest.mark.parametrize("method", METHODS)
def test_learns_and_stays_in_the_box(method):
    """Signs of a sum of inputs: what binary weights can say."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(512, 16)).astype("float32")
    y = (x @ sign(numbers(16, 1, seed=3)) > 0).astype("float32")
    layers = [keras.Input((16,)), BinaryDense(64, method), keras.layers.BatchNormalization()]
    model = keras.Sequential([*layers, keras.layers.ReLU(), keras.layers.Dense(1)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=15, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] > 0.85
    assert np.abs(model.layers[0].real_kernel).max() <= 1


@pytest.mark.export
@pytest.mark.parametrize("fmt", [tflite, onnx], ids=["tflite", "onnx"])
@pytest.mark.parametrize("method", BINARY_INPUTS)
def test_binary_inputs_export(method, fmt, tmp_path):
    """Float is exact; int8 too, for inputs that are not within a step of zero."""
    image = keras.Input((6, 6, 3), name="image")
    model = keras.Model(image, BinaryConv2D(5, 3, method)(image))
    x = np.random.default_rng(0).uniform(0.05, 1, (32, 6, 6, 3)).astype("float32")
    x *= sign(numbers(*x.shape))
    want = np.asarray(model(x))
    path = fmt.write(model, tmp_path / "part")
    np.testing.assert_allclose(fmt.run(path, x), want, rtol=1e-5, atol=1e-5)
    options = {"input_type": "float32"} if fmt is tflite else {}
    path = fmt.write(model, tmp_path / "int8", variant="int8", calibration=x, **options)
    error = want - fmt.run(path, x)
    assert 10 * np.log10(np.square(want).sum() / np.square(error).sum()) >= 25


def test_bad_arguments():
    with pytest.raises(ValueError, match="`method` of BinaryDense must be one of"):
        BinaryDense(3, "ternary")
    with pytest.raises(ValueError, match="`strides` of BinaryConv2D must be an integer >= 1"):
        BinaryConv2D(3, strides=0)
