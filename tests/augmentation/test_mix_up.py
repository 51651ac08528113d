import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from cnnkit.augmentation import MixUp
from cnnkit.augmentation.mixing import beta
from cnnkit.augmentation.mixing import partners
from tests.augmentation.draws import apply
from tests.augmentation.draws import pictures
from tests.specs import Spec

SPECS = (Spec("augmentation", "MixUp", lambda: MixUp(1.0), input_shape=(12, 10, 3)),)


def test_labels_are_mixed_as_pixels_are():
    x = pictures(32)
    mixed, labels = apply(MixUp(1.0), x)
    np.testing.assert_allclose(mixed, np.tensordot(labels, x, 1), atol=1e-3)
    assert ((labels > 0).sum(1) <= 2).all()
    assert ((labels > 0).sum(1) == 2).mean() > 0.8


def test_soft_labels_stay_their_expectation():
    x, soft = pictures(32), np.random.default_rng(0).dirichlet([1, 1, 1], 32).astype("float32")
    _, own = apply(MixUp(1.0), x)
    np.testing.assert_allclose(apply(MixUp(1.0), x, soft)[1], own @ soft, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 4.0])
def test_shares_have_the_beta_distribution(alpha):
    drawn = np.asarray(beta(tf.constant([1, 2]), 5000, alpha))
    assert ((drawn >= 0) & (drawn <= 1)).all()
    np.testing.assert_allclose(drawn.mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(drawn.var(), stats.beta(alpha, alpha).var(), rtol=0.06)
    middle = stats.beta(alpha, alpha).cdf(0.9) - stats.beta(alpha, alpha).cdf(0.1)
    np.testing.assert_allclose(((drawn > 0.1) & (drawn < 0.9)).mean(), middle, atol=0.03)


def test_each_picture_is_a_partner_once():
    drawn = [np.asarray(partners(tf.constant([1, k]), 6)) for k in range(50)]
    assert all(sorted(order) == list(range(6)) for order in drawn)
    assert len({tuple(order) for order in drawn}) > 40


def test_one_picture_is_its_own_partner():
    x = pictures(1)
    mixed, labels = apply(MixUp(1.0), x)
    np.testing.assert_allclose(mixed, x, rtol=1e-6)
    np.testing.assert_allclose(labels, [[1.0]], rtol=1e-6)


def test_bad_alpha():
    with pytest.raises(ValueError, match=r"`alpha` of MixUp must be in \(0.0, inf\)"):
        MixUp(0.0)
