"""Stacking: a second learner, which learns what the probabilities of the members mean."""

from typing import Any
from typing import Self

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from cnnkit.ensembles import learners
from cnnkit.errors import DataError


class Stacking:
    """A learner whose features are the members' probabilities side by side.

    Members are surer of the pictures that they were trained on than of any other: it is to be
    fitted on pictures that they were not, as those of the validation split. How good it is on
    these it must not be asked itself: `out_of_fold` tells.

    Args:
        learner: Any classifier of scikit-learn, such as a support vector machine, a random forest
            or a small net; None is `LogisticRegression`. It is copied.

    Reference:
        Wolpert 1992, "Stacked generalization", https://doi.org/10.1016/S0893-6080(05)80023-1.
        Differs: the members are trained once, on a split of their own, where the paper trains
        them anew for each fold.
    """

    def __init__(self, learner: Any = None) -> None:
        self.learner = LogisticRegression(max_iter=1000) if learner is None else clone(learner)

    def fit(self, probabilities: np.ndarray, labels: np.ndarray) -> Self:
        """Learns from `(members, n, classes)` and labels `(n,)`.

        Raises:
            DataError: If a class has no picture.
        """
        _smallest_class(probabilities, labels, at_least=1)
        self.learner.fit(side_by_side(probabilities), labels)
        return self

    def predict(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns probabilities `(n, classes)` from those of the members."""
        return learners.probabilities(self.learner, side_by_side(probabilities))

    def out_of_fold(
        self, probabilities: np.ndarray, labels: np.ndarray, folds: int = 5, seed: int = 0
    ) -> np.ndarray:
        """Returns what copies of the learner say of pictures that they were not fitted on.

        Args:
            probabilities: `(members, n, classes)`.
            labels: `(n,)`.
            folds: At most; fewer if the smallest class has fewer pictures.
            seed: Of the division.

        Raises:
            DataError: If a class has fewer than two pictures.
        """
        smallest = _smallest_class(probabilities, labels, at_least=2)
        features = side_by_side(probabilities)
        found = np.zeros(np.shape(probabilities)[1:])
        divided = StratifiedKFold(min(folds, smallest), shuffle=True, random_state=seed)
        for known, unknown in divided.split(features, labels):
            learner = clone(self.learner).fit(features[known], labels[known])
            found[unknown] = learners.probabilities(learner, features[unknown])
        return found

    def layers(self) -> list[learners.Dense]:
        """Returns the fitted learner as dense layers before a softmax.

        Raises:
            UsageError: If it is neither linear nor a small net.
        """
        return learners.dense_layers(self.learner)


def side_by_side(probabilities: np.ndarray) -> np.ndarray:
    """Returns `(n, members · classes)` from `(members, n, classes)`."""
    return np.concatenate(list(np.asarray(probabilities, float)), -1)


def _smallest_class(probabilities: np.ndarray, labels: np.ndarray, at_least: int) -> int:
    counts = np.bincount(labels, minlength=np.shape(probabilities)[-1])
    if counts.min() < at_least:
        raise DataError(
            "Stacking needs pictures of every class that the members were not trained on",
            expected=f"{at_least} or more of each class",
            received=f"{counts.min()} of class {counts.argmin()}",
            todo="give more to the validation split, or average instead",
        )
    return int(counts.min())
