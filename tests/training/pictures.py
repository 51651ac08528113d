"""A dataset of tiny pictures in memory."""

import numpy as np


class Pictures:
    """Bright bars on dark noise: the class is the column of the bar."""

    image_shape = (8, 8, 1)

    def __init__(self, train=60, val=30, test=30, classes=3, dtype=np.uint8):
        self.classes = [f"bar {k}" for k in range(classes)]
        rng = np.random.default_rng(0)
        self._splits = {}
        for split, n in {"train": train, "val": val, "test": test}.items():
            y = np.arange(n) % classes
            x = rng.integers(0, 90, (n, 8, 8, 1)).astype(dtype)
            x[np.arange(n), :, 2 * y] += 120
            self._splits[split] = (x, y.astype(np.int64))

    def arrays(self, split):
        return self._splits[split]

    def labels(self, split):
        return self._splits[split][1]

    def ids(self, split):
        return [f"{split}/{i}.png" for i in range(len(self.labels(split)))]

    def statistics(self):
        x = self.arrays("train")[0]
        return [float(x.mean())], [float(x.std())]


class Unequal(Pictures):
    """Of whose classes the first ones have fewer training pictures."""

    def __init__(self, *counts):
        super().__init__(train=max(counts) * len(counts), classes=len(counts))
        x, y = self._splits["train"]
        kept = np.concatenate([np.flatnonzero(y == k)[:n] for k, n in enumerate(counts)])
        self._splits["train"] = x[kept], y[kept]


def bars(folder, *counts):
    """Writes bars as a `.npz` with so many pictures of each class, and returns its path."""
    data = Unequal(*counts or (12, 60, 60))
    x, y = data.arrays("train")
    np.savez(folder / "bars.npz", x=x, y=y)
    return folder / "bars.npz"
