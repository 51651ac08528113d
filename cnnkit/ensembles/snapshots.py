"""Snapshots: one training that leaves several members."""

from __future__ import annotations

from collections import deque
from typing import Any

import keras
import numpy as np

from cnnkit import checks


class Snapshots(keras.callbacks.Callback):
    """Keeps a network as it is at regular times of its training.

    Under the schedule `cyclic:cycles=M`, without a warm-up, `count=M` keeps it at the end of each
    cycle, where the rate is zero: a snapshot ensemble. Without `count` it is kept after each
    epoch: epoch fusion.

    Args:
        model: What is trained, or shares its layers with what is trained.
        keep: How many of the last ones are kept, m of the paper.
        count: How many there are in all, M of the paper, evenly spread over the steps; None is
            the number of epochs.

    Raises:
        ValueError: If a number is not positive, or more are to be kept than there are.

    Reference:
        Huang et al. 2017, "Snapshot Ensembles: Train 1, get M for free", section 3,
        https://arxiv.org/abs/1704.00109. Differs: nothing.
    """

    def __init__(self, model: keras.Model, keep: int, count: int | None = None) -> None:
        super().__init__()
        if count is not None:
            checks.integer("Snapshots", "count", count, 1)
        self.net, self.count = model, count
        self.kept: deque[list[np.ndarray]] = deque(
            maxlen=checks.integer("Snapshots", "keep", keep, 1, count)
        )

    def on_train_begin(self, logs: Any = None) -> None:
        self.total = self.params["epochs"] * self.params["steps"]
        self.every = -(-self.total // (self.count or self.params["epochs"]))
        self.seen = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen += 1
        # The last cycle is the shorter one where they cannot be equal.
        if self.seen % self.every == 0 or self.seen == self.total:
            self.kept.append(self.net.get_weights())

    def models(self) -> list[keras.Model]:
        """Returns the snapshots as models, the earliest first."""
        found = []
        for weights in self.kept:
            found.append(keras.models.clone_model(self.net))
            found[-1].set_weights(weights)
        return found
