import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnkit.layers import HashedConv2D
from cnnkit.layers import HashedDense
from cnnkit.layers.hashed import hashes
from tests.specs import Spec

SPECS = (
    Spec("layer", "HashedDense", lambda: HashedDense(6, ratio=0.3, seed=3), input_shape=(20,)),
    Spec(
        "layer",
        "HashedConv2D",
        lambda: HashedConv2D(6, 3, ratio=0.2, strides=2, padding="valid", seed=1),
        input_shape=(9, 8, 4),
    ),
)


def whole(layer, shape):
    """The kernel by the formula, one place after the other."""
    code = np.asarray(layer.codebook)
    values = [
        (-1) ** (int(z) & 1) * code[(int(z) >> 1) % len(code)]
        for z in hashes(int(np.prod(shape)), layer.seed)
    ]
    return np.reshape(values, shape)


def test_hash_is_splitmix64():
    """The first numbers of the public-domain C code, whose state has been advanced once."""

    def splitmix64(state):
        z = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    assert int(hashes(1, 0)[0]) == 0xE220A8397B1DCDAF  # splitmix64.c, seed 0
    step = 0x9E3779B97F4A7C15
    for seed in (0, 7):
        want = [splitmix64((seed + i) * step % 2**64) for i in range(50)]
        assert hashes(50, seed).tolist() == want


def test_hash_spreads_places_and_signs_evenly():
    places, counts = np.unique((hashes(64_000, 0) >> np.uint64(1)) % np.uint64(64), return_counts=1)
    assert len(places) == 64
    assert np.square(counts - 1000).sum() / 1000 < 110  # chi squared, 63 degrees: p = 2e-4
    assert abs((hashes(64_000, 0) & np.uint64(1)).mean() - 0.5) < 0.01


def test_dense_matches_the_formula():
    layer = HashedDense(5, ratio=0.25, seed=2)
    x = np.random.default_rng(0).normal(size=(3, 16)).astype("float32")
    y = layer(x)
    layer.bias.assign(np.arange(5))
    assert layer.codebook.shape == (20,)
    w = whole(layer, (16, 5))
    np.testing.assert_allclose(y, x @ w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer(x), x @ w + np.arange(5), rtol=1e-5, atol=1e-6)
    assert len(np.unique(np.abs(w))) <= 20


@pytest.mark.parametrize(("strides", "padding"), [(1, "same"), (2, "valid"), (2, "same")])
def test_convolution_is_keras_with_the_whole_kernel(strides, padding):
    layer = HashedConv2D(5, 3, 0.1, strides, padding, use_bias=False)
    plain = keras.layers.Conv2D(5, 3, strides, padding, use_bias=False)
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 4)).astype("float32")
    plain.build(x.shape)
    y = layer(x)
    plain.kernel.assign(whole(layer, (3, 3, 4, 5)))
    assert layer.codebook.shape == (18,)
    np.testing.assert_allclose(y, plain(x), rtol=1e-5, atol=1e-5)


def test_gradient_of_a_weight_is_the_sum_over_its_places():
    layer = HashedDense(5, ratio=0.25, use_bias=False)
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 16)), tf.float32)
    layer.build(x.shape)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(layer(x)))
    found = tf.convert_to_tensor(tape.gradient(loss, layer.codebook.value))
    of_whole = 2 * x.numpy().T @ layer(x).numpy()  # eq. 12: dL/dW_ij
    z = hashes(80, 0)
    signs = 1.0 - 2.0 * (z & np.uint64(1))
    want = np.bincount((z >> np.uint64(1)) % 20, signs * of_whole.ravel(), minlength=20)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


def test_ratio_1_still_shares_and_a_tiny_ratio_leaves_one_weight():
    for ratio, count in ((1.0, 80), (1e-9, 1), (0.5, 40)):
        layer = HashedDense(5, ratio=ratio)
        layer.build((None, 16))
        assert layer.codebook.shape == (count,)


def test_starts_with_the_variance_of_a_dense_layer():
    layer = HashedDense(300, ratio=0.1)
    layer.build((None, 100))
    kernel = np.asarray(layer.kernel(training=False))
    assert kernel.var() == pytest.approx(2 / 400, rel=0.1)  # Glorot and Bengio
    assert abs(kernel.mean()) < 0.002


def test_learns_what_a_dense_layer_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 10)).astype("float32")
    y = np.square(x[:, :1])
    model = keras.Sequential(
        [keras.Input((10,)), HashedDense(64), keras.layers.ReLU(), HashedDense(1, ratio=0.5)]
    )
    model.compile(keras.optimizers.Adam(0.02), "mse")
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, epochs=40, verbose=0)
    assert model.evaluate(x, y, verbose=0) < 0.2 * before


def test_seeds_share_differently():
    kernels = []
    for seed in (0, 0, 1):
        layer = HashedDense(5, seed=seed)
        layer.build((None, 16))
        layer.codebook.assign(np.arange(1, 11))
        kernels.append(np.asarray(layer.kernel(training=False)))
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).mean() > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "`units` of HashedDense must be an integer >= 1"),
        ({"units": 3, "ratio": 0.0}, r"`ratio` of HashedDense must be in \(0\.0, 1\.0\]"),
        ({"units": 3, "seed": -1}, "`seed` of HashedDense must be an integer >= 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HashedDense(**arguments)


def test_bad_convolution():
    with pytest.raises(ValueError, match="`padding` of HashedConv2D must be one of"):
        HashedConv2D(3, padding="full")
    with pytest.raises(ValueError, match="HashedDense needs a known channel count"):
        HashedDense(3).build((None, None))
