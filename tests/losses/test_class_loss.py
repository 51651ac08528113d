import keras
import numpy as np
import pytest

from cnnkit import losses
from cnnkit.losses.margins import best_other
from cnnkit.losses.margins import logsumexp_of_others


@pytest.mark.parametrize("make", [losses.Hinge, losses.Ramp, losses.LabelDistribution])
def test_smoothing_is_a_soft_label(make):
    h = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    soft = 0.8 * np.eye(4)[[0, 2, 3]] + 0.05
    np.testing.assert_allclose(make(label_smoothing=0.2)([0, 2, 3], h), make()(soft, h), rtol=1e-5)


def test_smoothing_is_that_of_keras():
    h, y = np.random.default_rng(0).normal(size=(3, 4)).astype("float32"), np.eye(4)[[0, 2, 3]]
    mine = losses.LargeMarginSoftmax(1, label_smoothing=0.2)(y, np.stack([h, 9 + 0 * h], 1))
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)(y, h)
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_a_number_that_is_no_class_has_no_loss():
    assert float(losses.Hinge()([-1], [[0.0, 0.0]])) == 0


def test_bad_smoothing():
    with pytest.raises(ValueError, match=r"`label_smoothing` of Ramp must be in \[0.0, 1.0\)"):
        losses.Ramp(label_smoothing=1.0)


def test_the_others():
    h = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    h[1] = 2.0  # all equal
    h[2, 0] = 80.0  # whose exponential drowns the others
    others = [[np.delete(row, c) for c in range(4)] for row in h.astype("float64")]
    np.testing.assert_allclose(best_other(h), np.max(others, -1), rtol=1e-6)
    want = np.log(np.sum(np.exp(others), -1))
    np.testing.assert_allclose(logsumexp_of_others(h), want, rtol=1e-5, atol=1e-5)
