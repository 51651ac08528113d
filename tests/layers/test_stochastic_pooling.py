import keras
import numpy as np
import pytest

from cnnkit.layers import StochasticPooling2D
from export.formats import tflite
from tests.specs import Spec

SPECS = (Spec("layer", "StochasticPooling2D", lambda: StochasticPooling2D(3, 2, "same", seed=1)),)


def picture(shape=(2, 7, 9, 4), seed=0):
    """Activations as behind a ReLU, with a window of zeros."""
    x = np.maximum(np.random.default_rng(seed).normal(size=shape), 0).astype("float32")
    x[:, :3, :3, 0] = 0
    return x


def each_window(x, size, strides):
    """Yields place and values, `(batch, values, channels)`, of the windows inside of `x`."""
    for i in range((x.shape[1] - size) // strides + 1):
        for j in range((x.shape[2] - size) // strides + 1):
            window = x[:, i * strides : i * strides + size, j * strides : j * strides + size]
            yield (i, j), window.reshape(len(x), size * size, -1)


@pytest.mark.parametrize(("size", "strides"), [(2, 2), (3, 2), (2, 1)])
def test_inference_is_the_mean_by_the_probabilities(size, strides):
    x = picture()
    y = np.asarray(StochasticPooling2D(size, strides)(x, training=False))
    for (i, j), a in each_window(x, size, strides):
        sums = a.sum(1, keepdims=True)
        p = np.divide(a, sums, out=np.zeros_like(a), where=sums > 0)
        np.testing.assert_allclose(y[:, i, j], (p * a).sum(1), rtol=1e-5)
    assert not y[:, 0, 0, 0].any()


def test_the_example_of_the_paper():
    # Figure 1 of Zeiler and Fergus: 1.6 and 2.4 in a window of nine have p = 0.4 and 0.6.
    a = np.array([1.6, 0, 0, 0, 0, 0, 0, 0, 2.4], "float32")
    y = StochasticPooling2D(3)(a.reshape(1, 3, 3, 1))
    np.testing.assert_allclose(np.squeeze(y), 0.4 * 1.6 + 0.6 * 2.4, rtol=1e-6)


def test_training_draws_by_the_probabilities():
    a = np.array([1, 0, 3, 6], "float32")
    x = np.tile(a.reshape(1, 2, 2, 1), (1, 100, 100, 2))
    drawn = np.asarray(StochasticPooling2D(2, seed=3)(x, training=True))
    for channel in range(2):
        shares = [(drawn[..., channel] == value).mean() for value in (0, 1, 3, 6)]
        # Of 2500 draws, five standard deviations are at most 0.05.
        np.testing.assert_allclose(shares, [0, 0.1, 0.3, 0.6], atol=0.05)
    assert (drawn[..., 0] != drawn[..., 1]).any()


def test_training_gives_one_of_the_window_and_zero_of_zeros():
    x = picture()
    y = np.asarray(StochasticPooling2D(3, seed=0)(x, training=True))
    for (i, j), a in each_window(x, 3, 3):
        assert (y[:, i, j, None] == a).any(1).all()
        assert ((y[:, i, j] > 0) == (a.max(1) > 0)).all()
    assert not y[:, 0, 0, 0].any()


def test_draws_differ_by_call_and_follow_the_seed():
    x, layer = picture(), StochasticPooling2D(seed=5)
    first, second = (np.asarray(layer(x, training=True)) for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(StochasticPooling2D(seed=5)(x, training=True), first)


def test_the_gradient_goes_to_what_was_picked():
    import tensorflow as tf

    x = tf.constant(picture())
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = StochasticPooling2D(3, seed=0)(x, training=True)
    gradient = tape.gradient(y, x).numpy()
    for (i, j), g in each_window(gradient, 3, 3):
        positive = y.numpy()[:, i, j] > 0
        np.testing.assert_array_equal((g == 1).sum(1)[positive], 1)
        np.testing.assert_array_equal(np.abs(g).sum(1)[positive], 1)


def test_negative_inputs_count_as_zero():
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    for training in (False, True):
        got, want = (
            np.asarray(StochasticPooling2D(seed=1)(value, training=training))
            for value in (x, np.maximum(x, 0))
        )
        np.testing.assert_array_equal(got, want)


def test_large_values_in_half_precision():
    x = np.full((1, 2, 2, 1), 1000, "float16")
    assert float(np.squeeze(StochasticPooling2D(dtype="float16")(x))) == 1000


def test_padding_is_never_picked():
    x = np.ones((1, 5, 5, 2), "float32")
    layer = StochasticPooling2D(3, 2, "same", seed=0)
    for training in (False, True):
        np.testing.assert_allclose(layer(x, training=training), np.ones((1, 3, 3, 2)), rtol=1e-6)


def test_unknown_sides():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, StochasticPooling2D(2)(image))
    assert model.output_shape == (None, None, None, 3)
    x = picture((1, 6, 8, 3))
    for training in (False, True):
        assert model(x, training=training).shape == (1, 3, 4, 3)


@pytest.mark.export
def test_a_window_of_zeros_is_zero_in_the_integer_file(tmp_path):
    image = keras.Input((8, 8, 4))
    model = keras.Model(image, StochasticPooling2D(2)(image))
    x = picture((16, 8, 8, 4))
    path = tflite.write(
        model, tmp_path / "net", variant="int8", calibration=x, input_type="float32"
    )
    got = tflite.run(path, x)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[:, 0, 0, 0], 0, atol=0.02)
    np.testing.assert_allclose(got, model(x), atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool_size": 0}, "`pool_size` of StochasticPooling2D must be an integer >= 1"),
        ({"strides": 0}, "`strides` of StochasticPooling2D must be an integer >= 1"),
        ({"padding": "full"}, "`padding` of StochasticPooling2D must be one of"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        StochasticPooling2D(**options)
