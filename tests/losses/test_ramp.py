import numpy as np
import pytest
import tensorflow as tf

from cnnkit.losses import Hinge
from cnnkit.losses import Ramp
from tests.specs import Spec

SPECS = (Spec("loss", "Ramp", lambda: Ramp(s=-0.5, kind="crammer_singer"), input_shape=(5,)),)
U = np.array([-9.0, -1.0, -0.51, -0.5, 0.0, 0.7, 1.0, 1.5], "float32")


def test_matches_the_formula():
    """9.1.3"""
    h = np.stack([U, 0 * U, 0 * U], -1)
    want = np.maximum(0, 1 - U) - np.maximum(0, -0.5 - U)  # s = -1 / (3 - 1)
    np.testing.assert_allclose(Ramp(reduction="none")(0 * U, h), want, rtol=1e-6)
    # The best other score is 0, so that u is the same.
    np.testing.assert_allclose(
        Ramp(kind="crammer_singer", reduction="none")(0 * U, h), want, rtol=1e-6
    )


def test_is_a_hinge_minus_a_hinge_and_bounded():
    h = np.random.default_rng(0).normal(0, 9, (50, 4)).astype("float32")
    y = np.arange(50) % 4
    losses = np.asarray(Ramp(s=-2.0, reduction="none")(y, h))
    assert losses.min() == 0
    assert losses.max() == 3
    right = h[np.arange(50), y] >= -2
    hinge = np.asarray(Hinge(reduction="none")(y, h))
    np.testing.assert_allclose(losses[right], hinge[right], rtol=1e-6)


def test_derivative_at_the_corners():
    u = tf.constant(U)
    with tf.GradientTape() as tape:
        tape.watch(u)
        loss = Ramp(reduction="sum")(0 * U, tf.stack([u, 0 * u, 0 * u], -1))
    slopes = tape.gradient(loss, u).numpy()
    assert slopes.tolist() == [0, 0, 0, -1, -1, -1, 0, 0]


@pytest.mark.parametrize("s", [1.0, float("inf")])
def test_bad_cut(s):
    with pytest.raises(ValueError, match="`s` of Ramp must be in"):
        Ramp(s=s)
    with pytest.raises(ValueError, match="`kind` of Ramp must be one of"):
        Ramp(kind="weston_watkins")
