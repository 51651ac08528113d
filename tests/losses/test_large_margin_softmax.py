import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnkit.losses import LargeMarginSoftmax
from cnnkit.losses import angular
from cnnkit.losses.large_margin_softmax import phi
from tests.specs import Spec


def alike(scores):
    """Returns scores with weights and features of one length."""
    return np.stack([scores, np.full_like(scores, np.abs(scores).max() * 1.2)], 1)


SPECS = (
    Spec(
        "loss",
        "LargeMarginSoftmax",
        lambda: LargeMarginSoftmax(margin=3, blend=0.5),
        input_shape=(5,),
        predict=alike,
        truth=np.stack([100 * np.eye(5)[[1, 3]] - 50, np.full((2, 5), 50.0)], 1),
    ),
)


def problem(n=12, features=3, classes=4):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (n, features)).astype("float32")
    w = rng.normal(size=(features, classes)).astype("float32")
    return x, w, np.arange(n) % classes


def psi(theta, m):
    k = np.minimum(np.floor(theta * m / np.pi), m - 1)
    return (-1) ** k * np.cos(m * theta) - 2 * k


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_phi_falls_and_is_the_papers(margin):
    theta = np.linspace(0, np.pi, 200)
    values = np.asarray(phi(tf.constant(np.cos(theta)), margin))
    np.testing.assert_allclose(values, psi(theta, margin), atol=1e-9)
    assert (np.diff(values) < 0).all()
    np.testing.assert_allclose(values[[0, -1]], [1, 1 - 2 * margin], atol=1e-9)


@pytest.mark.parametrize("blend", [0.0, 2.0])
@pytest.mark.parametrize("margin", [2, 3, 4])
def test_matches_the_formula(margin, blend):
    """9.1.4"""
    x, w, y = problem()
    h, lengths = x @ w, np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(w, axis=0))
    own = lengths * psi(np.arccos(h / lengths), margin)
    rows = np.arange(len(y))
    h[rows, y] = ((own + blend * h) / (1 + blend))[rows, y]
    want = np.log(np.exp(h).sum(1)) - h[rows, y]
    got = LargeMarginSoftmax(margin, blend, reduction="none")(y, angular(x, w))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_margin_one_is_cross_entropy():
    x, w, y = problem()
    bias = np.array([0.5, -1.0, 0.0, 2.0], "float32")
    want = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, x @ w + bias)
    np.testing.assert_allclose(LargeMarginSoftmax(1)(y, angular(x, w, bias)), want, rtol=1e-5)
    np.testing.assert_allclose(LargeMarginSoftmax(4, 1e6)(y, angular(x, w, bias)), want, rtol=1e-4)


def test_larger_margins_ask_for_more():
    x, w, y = problem()
    losses = [
        np.asarray(LargeMarginSoftmax(m, reduction="none")(y, angular(x, w))) for m in (1, 2, 3, 4)
    ]
    assert (np.diff(losses, axis=0) > 0).all()


def test_a_bias_is_the_weight_of_a_constant_feature():
    x, w, _ = problem()
    bias = np.arange(4, dtype="float32")
    with_one = np.concatenate([x, np.ones((len(x), 1), "float32")], 1)
    np.testing.assert_allclose(
        angular(x, w, bias), angular(with_one, np.concatenate([w, bias[None]])), rtol=1e-5
    )


def test_features_that_are_zero_have_a_finite_gradient():
    _, w, y = problem(n=2)
    x = tf.zeros((2, 3))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = LargeMarginSoftmax(4)(y, angular(x, w))
    np.testing.assert_allclose(loss, np.log(4), rtol=1e-6)
    assert np.isfinite(tape.gradient(loss, x)).all()


@pytest.mark.parametrize("margin", [0, 5])
def test_bad_margin(margin):
    with pytest.raises(ValueError, match=r"`margin` of LargeMarginSoftmax .* in \[1, 4\]"):
        LargeMarginSoftmax(margin)
    with pytest.raises(TypeError, match="an integer"):
        LargeMarginSoftmax(2.0)
    with pytest.raises(ValueError, match="`blend` of LargeMarginSoftmax"):
        LargeMarginSoftmax(blend=-1.0)
