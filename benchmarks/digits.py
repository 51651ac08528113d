"""MNIST for benchmarks that choose nothing: some training digits, none held out, all test digits.

`CNNKIT_DATA` is a folder with the four IDX files.
"""

import os

import keras
import numpy as np

from cnnkit import data
from cnnkit.errors import UsageError


class Digits:
    """What `fit` trains on, and the errors of what was trained.

    Args:
        count: Digits to train on, of the 60,000, always the same.
        side: Of the pictures, in pixels; MNIST's own is 28.

    Raises:
        UsageError: If `CNNKIT_DATA` is not set.
    """

    def __init__(self, count: int = 60_000, side: int = 28) -> None:
        place = os.environ.get("CNNKIT_DATA")
        if not place:
            raise UsageError("No data", todo="set CNNKIT_DATA to the folder of MNIST's IDX files")
        loaded = data.load(data.check(place), image_size=(side, side))
        pairs = [loaded.arrays(split) for split in ("train", "val")]
        x, y = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        chosen = np.random.default_rng(0).permutation(len(x))[:count]
        self.x, self.y = x[chosen], y[chosen]
        self.test_x, self.test_y = loaded.arrays("test")
        self.classes, self.image_shape = loaded.classes, loaded.image_shape

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pictures and labels of a split; there are none for validation."""
        if split == "test":
            return self.test_x, self.test_y
        return (self.x, self.y) if split == "train" else (self.x[:0], self.y[:0])

    def statistics(self) -> tuple[list[float], list[float]]:
        """Returns mean and standard deviation of the training pixels, as `deployable` takes."""
        return [float(self.x.mean())], [float(self.x.std())]

    def errors(self, model: keras.Model) -> int:
        """Returns the number of test digits that `model` takes for another."""
        scores = model.predict(self.test_x.astype("float32"), batch_size=1000, verbose=0)
        return int((scores.argmax(1) != self.test_y).sum())
