import keras
import numpy as np
import pytest

from cnnkit.losses import Hinge
from tests.specs import Spec

SPECS = (Spec("loss", "Hinge", lambda: Hinge("weston_watkins"), input_shape=(5,)),)


def scores(n=6, classes=4):
    return np.random.default_rng(0).normal(0, 2, (n, classes)).astype("float32")


def formula(kind, h, y):
    others = np.delete(h, y)
    if kind == "score":
        return max(0, 1 - h[y])
    margins = np.maximum(0, 1 - h[y] + others)
    return margins.max() if kind == "crammer_singer" else margins.sum()


@pytest.mark.parametrize("kind", ["score", "crammer_singer", "weston_watkins"])
def test_matches_the_formula(kind):
    """9.1.2"""
    h, y = scores(), np.array([0, 1, 2, 3, 3, 0])
    want = [formula(kind, *example) for example in zip(h, y, strict=True)]
    np.testing.assert_allclose(Hinge(kind, reduction="none")(y, h), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(Hinge(kind)(y, h), np.mean(want), rtol=1e-5)


def test_crammer_singer_is_keras_where_a_rival_has_a_positive_score():
    h, y = np.abs(scores()), np.eye(4)[[0, 1, 2, 3, 3, 0]]
    np.testing.assert_allclose(
        Hinge("crammer_singer")(y, h), keras.losses.CategoricalHinge()(y, h), rtol=1e-6
    )


def test_equal_scores_are_a_margin_of_zero():
    h = np.full((1, 4), 7.0)
    assert float(Hinge("crammer_singer")([2], h)) == 1
    assert float(Hinge("weston_watkins")([2], h)) == 3


def test_bad_kind():
    with pytest.raises(ValueError, match="`kind` of Hinge must be one of"):
        Hinge("squared")
