import keras
import numpy as np
import pytest

from cnnkit.losses import LabelDistribution
from cnnkit.losses import expectation
from cnnkit.losses import gaussian
from tests.specs import Spec

SPECS = (
    Spec(
        "loss",
        "LabelDistribution",
        lambda: LabelDistribution(),
        input_shape=(5,),
        exempt={
            "test_a_soft_label_is_the_expectation_of_hard_ones": (
                "y log y is convex; test_a_soft_label_is_the_expectation_less_its_entropy holds"
            )
        },
    ),
)


def pair():
    rng = np.random.default_rng(0)
    labels = rng.dirichlet(np.ones(5), 3).astype("float32")
    labels[0] = [0, 0, 1, 0, 0]
    return labels, rng.normal(0, 2, (3, 5)).astype("float32")


def divergence(y, p):
    return np.sum(np.where(y > 0, y * np.log(np.where(y > 0, y, 1) / p), 0), -1)


def test_matches_the_formula():
    """9.3"""
    y, h = pair()
    p = np.exp(h) / np.exp(h).sum(-1, keepdims=True)
    want = divergence(y, p)
    each = LabelDistribution(reduction="none")
    np.testing.assert_allclose(each(y, h), want, rtol=1e-5)
    of_probabilities = LabelDistribution(from_logits=False, reduction="none")
    np.testing.assert_allclose(of_probabilities(y, p), want, rtol=1e-5)
    np.testing.assert_allclose(
        keras.losses.KLDivergence(reduction="none")(y, p), want, rtol=1e-4, atol=1e-5
    )


def test_a_soft_label_is_the_expectation_less_its_entropy():
    y, h = pair()
    each = LabelDistribution(reduction="none")
    hard = np.stack([each(np.full(3, c), h) for c in range(5)], -1)
    entropy = -divergence(y, 1.0)
    np.testing.assert_allclose(each(y, h), (y * hard).sum(-1) - entropy, rtol=1e-5, atol=1e-6)


def test_is_zero_at_the_label():
    y, _ = pair()
    np.testing.assert_allclose(LabelDistribution()(y[1:], np.log(y[1:])), 0, atol=1e-6)


def test_sigma_spreads_labels_over_their_neighbours():
    _, h = pair()
    grid = np.arange(5.0)
    want = LabelDistribution()(gaussian([1.0, 4.0, 0.0], grid, 0.7), h)
    np.testing.assert_allclose(LabelDistribution(sigma=0.7)([1, 4, 0], h), want, rtol=1e-5)


def test_gaussian_and_expectation_are_each_others_inverse():
    ages = np.array([30.0, 41.5, 60.2])
    grid = np.arange(0.0, 101.0)
    labels = np.asarray(gaussian(ages, grid, 2.0))
    density = np.exp(-np.square(grid - ages[:, None]) / 8) / np.sqrt(8 * np.pi)
    np.testing.assert_allclose(labels, density, atol=1e-5)
    np.testing.assert_allclose(labels.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(expectation(labels, grid), ages, rtol=1e-5)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`sigma` of LabelDistribution"):
        LabelDistribution(sigma=-1.0)
    with pytest.raises(ValueError, match="`sigma` of gaussian"):
        gaussian([1.0], [1.0, 2.0], 0.0)
