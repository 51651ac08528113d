"""EasyEnsemble: many balanced subsets of unbalanced pictures, so that none is thrown away."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Splits(Protocol):
    """What has labelled pictures by the name of their split."""

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]: ...


def balanced_subsets(labels: np.ndarray, count: int, seed: int = 0) -> list[np.ndarray]:
    """Returns `count` sets of indices with as many pictures of each class as the rarest has.

    Of each set its pictures are drawn without replacement, and independently of other sets.

    Args:
        labels: `(n,)`.
        count: T of the paper.
        seed: Of the draws.

    Reference:
        Liu, Wu, Zhou 2009, "Exploratory Undersampling for Class-Imbalance Learning", figure 1,
        https://doi.org/10.1109/TSMCB.2008.2007853. Differs: any number of classes; and a member
        is a network, where the paper has AdaBoost.
    """
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rarest = min(map(len, classes))
    return [
        np.sort(np.concatenate([rng.choice(all_of_it, rarest, False) for all_of_it in classes]))
        for _ in range(count)
    ]


class Subset:
    """A dataset of whose training split only some pictures are used.

    Args:
        dataset: The other splits are its own.
        chosen: Indices into its training split.
    """

    def __init__(self, dataset: Splits, chosen: np.ndarray) -> None:
        self.dataset, self.chosen = dataset, chosen

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns pixels and labels of a split."""
        x, y = self.dataset.arrays(split)
        return (x[self.chosen], y[self.chosen]) if split == "train" else (x, y)
