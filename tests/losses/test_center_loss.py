import numpy as np
import pytest
import tensorflow as tf

from cnnkit.losses import CenterLoss
from tests.specs import Spec

SPECS = (
    Spec(
        "loss",
        "CenterLoss",
        lambda: CenterLoss(classes=5, features=5, rate=0.3),
        input_shape=(5,),
        truth=np.zeros((2, 5)),
    ),
)
CENTERS = np.array([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]], "float32")


def loss_at(centers, rate=0.5, **options):
    loss = CenterLoss(*centers.shape, rate, **options)
    loss.centers.assign(centers)
    return loss


def test_matches_the_formula_and_is_zero_at_the_centres():
    """9.1.5"""
    x, y = np.array([[1.0, 2.0], [3.0, 2.0]], "float32"), [0, 1]
    each = loss_at(CENTERS, reduction="none")
    np.testing.assert_allclose(each(y, x), [2.0, 4.5])
    np.testing.assert_allclose(each([0, 2], CENTERS[[0, 2]]), 0)
    soft = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(each(soft, x), [0.5 * 2 + 0.5 * 0.5, 6.5])


def test_centres_move_by_their_own_rule():
    x, y = np.array([[3.0, 0.0], [5.0, 3.0], [0.0, 0.0]], "float32"), np.array([0, 0, 1])
    loss = loss_at(CENTERS, rate=0.3)
    loss.update(y, x)
    # (1 - 3) + (1 - 5) over 1 + 2 examples, and so on; nothing was seen of the third class.
    want = CENTERS - 0.3 * np.array([[-6 / 3, -3 / 3], [0.0, 2 / 2], [0.0, 0.0]])
    np.testing.assert_allclose(loss.centers, want, rtol=1e-6)
    soft = loss_at(CENTERS, rate=0.3)
    soft.update(np.eye(3)[y], x)
    np.testing.assert_allclose(soft.centers, want, rtol=1e-6)


def test_centres_come_to_the_means_and_have_no_gradient():
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = (CENTERS[y] + rng.normal(0, 0.1, (300, 2))).astype("float32")
    loss = CenterLoss(3, 2)
    for _ in range(50):
        loss.update(y, x)
    means = [x[y == c].mean(0) for c in range(3)]
    np.testing.assert_allclose(loss.centers, means, atol=1e-4)
    with tf.GradientTape() as tape:
        tape.watch(loss.centers.value)
        value = loss(y, x)
    assert tape.gradient(value, loss.centers.value) is None


def test_no_class_is_special():
    order = [2, 0, 1]
    x, y = np.array([[1.0, 2.0], [3.0, 2.0]], "float32"), np.array([0, 1])
    moved = loss_at(CENTERS[order])(np.argsort(order)[y], x)
    np.testing.assert_allclose(moved, loss_at(CENTERS)(y, x))


def test_bad_arguments():
    with pytest.raises(ValueError, match="`classes` of CenterLoss must be an integer >= 2"):
        CenterLoss(1, 2)
    with pytest.raises(ValueError, match="`features` of CenterLoss must be an integer >= 1"):
        CenterLoss(2, 0)
    with pytest.raises(ValueError, match=r"`rate` of CenterLoss must be in \[0.0, 1.0\]"):
        CenterLoss(2, 2, rate=1.5)
