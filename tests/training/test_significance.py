import numpy as np
import pytest
from scipy import stats

from cnnkit.training.significance import Difference
from cnnkit.training.significance import bootstrap
from cnnkit.training.significance import mcnemar
from cnnkit.training.significance import paired


def test_interval_of_pairs_is_that_of_the_t_test():
    pairs = [0.3, 0.1, 0.4, 0.2]
    found = paired(pairs)
    expected = stats.ttest_1samp(pairs, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(0.25)
    assert found.shown


def test_one_pair_shows_nothing():
    assert not paired([0.5]).shown
    with pytest.raises(ValueError, match="must not be empty"):
        paired([])


def test_a_difference_of_zero_is_not_shown():
    assert not Difference(0.1, -0.1, 0.3).shown
    assert Difference(-0.2, -0.3, -0.1).shown


def test_bootstrap_agrees_with_the_normal_interval():
    rng = np.random.default_rng(0)
    first, second = rng.random(4000) < 0.8, rng.random(4000) < 0.85
    found = bootstrap(first, second)
    differences = second.astype(float) - first
    half = 1.96 * differences.std() / np.sqrt(4000)
    assert found.mean == pytest.approx(differences.mean())
    assert found.low == pytest.approx(differences.mean() - half, abs=2e-3)
    assert found.high == pytest.approx(differences.mean() + half, abs=2e-3)


def test_mcnemar_counts_the_pictures_on_which_they_differ():
    first = np.array([True] * 10 + [False] * 8 + [True])
    second = np.array([True] * 18 + [False])
    # 8 wins of 9: P(at least 8 of 9 or at most 1 of 9) = 2 * (1 + 9) / 2^9.
    assert mcnemar(first, second) == pytest.approx(20 / 512)
    assert mcnemar(first, first) == 1
