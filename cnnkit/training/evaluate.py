"""`evaluate`: how good a classifier is, and how sure one can be of that."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from sklearn import metrics

from cnnkit.errors import DataError

if TYPE_CHECKING:
    from cnnkit.data import Dataset

WORST = 24
BINS = 15
_RESAMPLES = 2000
_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


@dataclass(frozen=True)
class ClassScore:
    """One class: all rates are fractions, `support` is its number of pictures."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Mistake:
    """One wrong answer, and how sure it was."""

    id: str
    true: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Scores:
    """What a classifier is worth on one split. All rates are fractions.

    Attributes:
        split: Name of the split.
        pictures: How many it has.
        accuracy: Of the likeliest class.
        interval: 95 % Wilson interval of the accuracy.
        majority: Accuracy of always answering the most frequent class of the training split.
        macro_f1: Mean F1 of the classes that occur.
        macro_f1_interval: Its 95 % interval by the bootstrap.
        nll: Mean negative log-likelihood, in nats.
        ece: Expected calibration error over 15 bins of equal width.
        classes: One row for each class.
        confusion: Counts; rows are true classes, columns answers.
        mistakes: The surest ones first.
    """

    split: str
    pictures: int
    accuracy: float
    interval: tuple[float, float]
    majority: float
    macro_f1: float
    macro_f1_interval: tuple[float, float]
    nll: float
    ece: float
    classes: list[ClassScore]
    confusion: list[list[int]]
    mistakes: list[Mistake]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self)


def evaluate(
    predict: Callable[[np.ndarray], np.ndarray], dataset: Dataset, split: str = "test"
) -> Scores:
    """Judges `predict`, from raw pixels `(n, h, w, c)` to probabilities, on one split.

    Raises:
        DataError: If the split is empty.
    """
    x, y = dataset.arrays(split)
    if not len(y):
        raise DataError("There is nothing to evaluate on", where=f"split {split}")
    p = np.asarray(predict(x), np.float64)
    answer, sure = p.argmax(1), p.max(1)
    right = answer == y
    names, ids = dataset.classes, dataset.ids(split)
    labels = range(len(names))
    columns = metrics.precision_recall_fscore_support(y, answer, labels=labels, zero_division=0.0)
    classes = [ClassScore(*row) for row in zip(names, *(c.tolist() for c in columns), strict=True)]
    confusion = metrics.confusion_matrix(y, answer, labels=labels)
    wrong = sorted(np.flatnonzero(~right).tolist(), key=lambda i: -sure[i])
    return Scores(
        split=split,
        pictures=len(y),
        accuracy=float(right.mean()),
        interval=wilson(int(right.sum()), len(y)),
        majority=float((y == np.bincount(dataset.labels("train")).argmax()).mean()),
        macro_f1=float(np.mean([row.f1 for row in classes if row.support])),
        macro_f1_interval=bootstrap_macro_f1(confusion),
        nll=float(-np.log(np.clip(p[np.arange(len(y)), y], 1e-12, 1.0)).mean()),
        ece=calibration_error(sure, right),
        classes=classes,
        confusion=confusion.tolist(),
        mistakes=[
            Mistake(ids[i], names[y[i]], names[answer[i]], float(sure[i])) for i in wrong[:WORST]
        ],
    )


def wilson(right: int, n: int) -> tuple[float, float]:
    """Returns the 95 % interval of a fraction of which `right` of `n` were seen.

    Reference:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference",
        https://doi.org/10.1080/01621459.1927.10502953. Differs: nothing.
    """
    z2 = _Z95**2
    p, whole = right / n, 1 + z2 / n
    middle = (p + z2 / (2 * n)) / whole
    half = _Z95 / whole * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_macro_f1(confusion: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval of the mean F1 of the classes that occur.

    Where all answers are right, so they are in every resample: the interval is then too short.

    Args:
        confusion: Counts; rows are true classes, columns answers.

    Reference:
        Efron 1979, "Bootstrap Methods: Another Look at the Jackknife",
        https://doi.org/10.1214/aos/1176344552. Differs: the percentile interval of 2,000 resamples
        of a fixed seed.
    """
    classes, n = len(confusion), int(confusion.sum())
    true, answer = np.nonzero(confusion)
    # Pictures of one cell are alike: a resample is how often it has each cell.
    shares, hit = confusion[true, answer] / n, true == answer
    rng, found = np.random.default_rng(0), np.empty(_RESAMPLES)
    for k in range(_RESAMPLES):
        drawn = rng.multinomial(n, shares)
        support = np.bincount(true, drawn, classes)
        right = np.bincount(true, drawn * hit, classes)
        f1 = 2 * right / np.maximum(support + np.bincount(answer, drawn, classes), 1)
        found[k] = f1[support > 0].mean()
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def calibration_error(sure: np.ndarray, right: np.ndarray) -> float:
    """Returns the mean distance between how sure answers are and how often they are right.

    Reference:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3,
        https://arxiv.org/abs/1706.04599. Differs: nothing.
    """
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=sure - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(sure))
