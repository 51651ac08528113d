"""Whether a difference is more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

_RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """A mean difference and its 95 % interval.

    Attributes:
        mean: Of the pairs.
        low: Lower end; NaN if one pair is all there is.
        high: Upper end, as `low`.
    """

    mean: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired(pairs: Sequence[float]) -> Difference:
    """Returns the mean of differences between few pairs, such as seeds, by Student's t.

    Raises:
        ValueError: If there are no pairs.
    """
    if not len(pairs):
        raise ValueError("`pairs` of paired must not be empty.")
    mean = float(np.mean(pairs))
    if len(pairs) < 2:
        return Difference(mean, float("nan"), float("nan"))
    half = float(stats.sem(pairs)) * float(stats.t.ppf(0.975, len(pairs) - 1))
    return Difference(mean, mean - half, mean + half)


def bootstrap(first: np.ndarray, second: np.ndarray) -> Difference:
    """Returns by how much more `second` is right than `first` on the same pictures.

    Args:
        first: Whether each answer is right, bool `(n,)`.
        second: The same of the other classifier.

    Reference:
        Efron 1979, "Bootstrap Methods: Another Look at the Jackknife",
        https://doi.org/10.1214/aos/1176344552. Differs: the percentile interval of 2,000 resamples
        of a fixed seed.
    """
    differences = second.astype(np.float64) - first
    # What a resample comes to depends on how many of -1, 0 and 1 it has.
    counts = np.array([(differences == value).sum() for value in (-1, 0, 1)])
    n = len(differences)
    drawn = np.random.default_rng(0).multinomial(n, counts / n, _RESAMPLES)
    low, high = np.percentile((drawn[:, 2] - drawn[:, 0]) / n, [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the probability of as unequal numbers of wins if both were equally good.

    Args:
        first: Whether each answer is right, bool `(n,)`.
        second: The same of the other classifier.

    Reference:
        McNemar 1947, "Note on the sampling error of the difference between correlated proportions",
        https://doi.org/10.1007/BF02295996. Differs: the exact binomial test in the place of chi
        squared.
    """
    wins, losses = int((second & ~first).sum()), int((first & ~second).sum())
    if not wins + losses:
        return 1.0
    return float(stats.binomtest(wins, wins + losses).pvalue)
