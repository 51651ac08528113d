"""Batches whose order depends on the seed and the epoch alone."""

import math

import keras
import numpy as np


def order(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns the order in which `n` pictures are seen in an epoch, whatever came before it."""
    return np.random.default_rng((seed, epoch)).permutation(n)


class Batches(keras.utils.PyDataset):
    """Raw pixels and one-hot labels in batches, for any backend of Keras.

    The pictures are divided evenly, so that no last batch is too small for batch
    normalization: sizes differ by one at most.

    Args:
        x: Pixels `(n, height, width, channels)`.
        y: Labels `(n,)`, or float32 `(n, numbers)` that stand in the place of one-hot labels.
        classes: Number of classes.
        batch_size: Pictures in a batch, at most.
        seed: Of the order; None keeps the order of the arrays.
    """

    def __init__(
        self, x: np.ndarray, y: np.ndarray, classes: int, batch_size: int, seed: int | None = None
    ) -> None:
        super().__init__()
        self.x, self.y, self.seed = x, y, seed
        self.one_hot = np.eye(classes, dtype=np.float32)
        self.steps = math.ceil(len(x) / batch_size)
        self.start(0)

    def start(self, epoch: int) -> None:
        """Puts the pictures in the order of an epoch."""
        n = len(self.x)
        indices = np.arange(n) if self.seed is None else order(self.seed, epoch, n)
        self.batches = np.array_split(indices, self.steps)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.batches[index]
        x, y = self.x[chosen], self.y[chosen]
        return x.astype(np.float32), self.one_hot[y] if y.ndim == 1 else y
