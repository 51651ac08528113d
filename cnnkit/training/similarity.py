"""How much a network knows already of new pictures, and which of its layers to train then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import numpy as np

from cnnkit.data import sample
from cnnkit.training import unfreezing
from cnnkit.training.layer_rates import leaves

if TYPE_CHECKING:
    from cnnkit.data import Dataset

# Fewer pictures a class than this are few: the book has no number, and this one is ours.
FEW = 100
# Part of the mistakes with shallow features that deep ones must spare for two tasks to be alike.
SPARED = 0.5
_PICTURES, _FOLDS, _GRID = 1000, 5, 4


@dataclass(frozen=True)
class Similarity:
    """What a linear classifier reads off the features of a network.

    Attributes:
        deep: Cross-validated accuracy on what the last layer with a kernel is given; None if there
            are too few pictures to tell.
        shallow: The same on what the first one gives, averaged over 4x4 fields.
        chance: Part of the pictures that are of the largest class.
        per_class: Pictures of the class in the middle, by numbers, in the training split.
    """

    deep: float | None
    shallow: float
    chance: float
    per_class: int

    @property
    def few(self) -> bool:
        """Whether there are few pictures."""
        return self.per_class < FEW

    @property
    def alike(self) -> bool:
        """Whether what the network has learned matters here.

        Its last features spare at least half of the mistakes that are made with those of its
        first layer, which hardly depend on what it was trained for, or by chance.
        """
        if self.deep is None:
            return False
        before = max(self.shallow, self.chance)
        return self.deep - before >= SPARED * (1 - before)

    @property
    def plan(self) -> str:
        """Which layers to train, one of `unfreezing.PLANS`.

        Few pictures that are alike: the last layer. Many alike: the second half. Many that differ:
        all. Few that differ: the last layer first, then all.

        Reference:
            Wei 2017, section 11.2.5, point 3. Differs: it holds the similarity to be hard to
            measure, and leaves few and many, and how many more layers, to the reader.
        """
        if self.alike:
            return "head" if self.few else "deep"
        return "head_then_all" if self.few else "all"

    def __str__(self) -> str:
        number = f"{self.per_class} pictures a class are {'few' if self.few else 'many'}"
        if self.deep is None:
            return f"{number}, too few to measure how alike the tasks are"
        return (
            f"{number}, and the tasks are {'alike' if self.alike else 'different'}: read off its "
            f"last features, {self.deep:.0%} are right, off its first {self.shallow:.0%}, and by "
            f"chance {self.chance:.0%}"
        )


def measure(model: keras.Model, dataset: Dataset, seed: int = 0) -> Similarity:
    """Measures how well the features of a network tell new classes apart.

    A logistic regression is trained on the features of 1000 training pictures at most, and
    judged on those it has not seen, in up to 5 folds.

    Args:
        model: Functional, from raw pixels, with the weights of another task.
        dataset: The new task.
        seed: Of the folds.
    """
    counts = np.bincount(dataset.labels("train"), minlength=len(dataset.classes))
    per_class = int(np.median(counts))
    x, y = sample(dataset, _PICTURES)
    held = np.bincount(y, minlength=len(counts))
    keep = held[y] > 1  # One picture cannot be both learned and asked for.
    x, y = x[keep], y[keep]
    if len(np.unique(y)) < 2:
        return Similarity(None, 0.0, 0.0, per_class)
    folds = min(_FOLDS, int(held[held > 1].min()))
    chance = float(held.max() / len(y))
    shallow, deep = (_accuracy(f, y, folds, seed) for f in _features(model, x))
    return Similarity(deep, shallow, chance, per_class)


def _features(model: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    """Returns, a row for each picture, what the first kernel gives and what the last is given."""
    kernels = [layer for layer in leaves(model) if unfreezing.has_kernel(layer)]
    net = keras.Model(model.inputs[0], [kernels[0].output, kernels[-1].input])
    shallow, deep = net.predict(x.astype("float32"), batch_size=64, verbose=0)
    return [_fields(shallow, _GRID), _fields(deep, 1)]


def _fields(maps: np.ndarray, grid: int) -> np.ndarray:
    """Returns means of feature maps over `grid` x `grid` fields, or features as they are."""
    if maps.ndim != 4:
        return maps.reshape(len(maps), -1)
    rows = [r.mean(1) for r in np.array_split(maps, min(grid, maps.shape[1]), axis=1)]
    cells = [c.mean(1) for row in rows for c in np.array_split(row, min(grid, row.shape[1]), 1)]
    return np.concatenate(cells, 1)


def _accuracy(features: np.ndarray, y: np.ndarray, folds: int, seed: int) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return float((cross_val_predict(probe, features, y, cv=parts) == y).mean())
