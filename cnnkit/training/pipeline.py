"""Batches whose order and augmentation depend on the seed and the epoch alone."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import numpy as np

from cnnkit.training.devices import ONE
from cnnkit.training.devices import Mesh

# Given pixels, labels and a seed of two int32, returns pixels and labels, in TensorFlow operations.
# With an attribute `boxes`, a row for each picture, it is also given the rows of its pictures.
Augment: TypeAlias = Callable[..., tuple[Any, Any]]
# Given an epoch, returns what is done to its pictures, if anything.
Augmentation: TypeAlias = Callable[[int], Augment | None]
# Given an epoch, returns the indices of its pictures in their order.
Sampler: TypeAlias = Callable[[int], np.ndarray]
# Batches that are made ready while the network computes.
_READY = 4


def order(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns the order in which `n` pictures are seen in an epoch, whatever came before it."""
    return np.random.default_rng((seed, epoch)).permutation(n)


def batch_size_for(n: int) -> int:
    """Returns how many of `n` training pictures make a batch: 32 up to 5,000, 128 from 20,000."""
    return 32 if n < 5_000 else 64 if n < 20_000 else 128


class Batches:
    """Raw pixels and one-hot labels in batches, for any backend of Keras.

    The pictures are divided evenly, so that no last batch is too small for batch
    normalization: sizes differ by one at most.

    Args:
        x: Pixels `(n, height, width, channels)`; may lie on disk, as `np.memmap`.
        y: Labels `(n,)`, or float32 `(n, numbers)` that stand in the place of one-hot labels.
        classes: Number of classes.
        batch_size: Pictures in a batch, at most.
        seed: Of order and augmentation; None keeps the order of the arrays.
        sampler: Chooses the pictures of an epoch, as many in each; None takes every picture once.
        augment: Says what changes the batches of an epoch, with another seed for each.
        mesh: Every batch can be divided evenly among its devices, for which up to one picture
            less than it has devices is left out of an epoch; of each batch, the pictures are those
            of its process.
    """

    def __init__(  # noqa: PLR0913
        self,
        x: np.ndarray,
        y: np.ndarray,
        classes: int,
        batch_size: int,
        seed: int | None = None,
        sampler: Sampler | None = None,
        augment: Augmentation | None = None,
        mesh: Mesh = ONE,
    ) -> None:
        self.mesh = mesh
        self.x, self.y, self.seed = x, y, seed
        self.sampler, self.augment = sampler, augment
        self.one_hot = np.eye(classes, dtype=np.float32)
        n = len(self._order(0))
        self.steps = max(1, min(math.ceil(n / batch_size), n // mesh.devices))

    def __len__(self) -> int:
        return self.steps

    def indices(self, epoch: int) -> list[np.ndarray]:
        """Returns which pictures are in each batch of an epoch."""
        order, each = self._order(epoch), self.mesh.devices
        # What every device gets of each batch, in the columns.
        groups = order[: len(order) // each * each].reshape(-1, each)
        mine = np.array_split(np.arange(each), self.mesh.processes)[self.mesh.process]
        return [part[:, mine].ravel() for part in np.array_split(groups, self.steps)]

    def of(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns pixels as they are stored, and float32 labels, of the chosen pictures."""
        y = self.y[chosen]
        return self.x[chosen], self.one_hot[y] if y.ndim == 1 else y

    def stream(self, epochs: Sequence[int] = (0,)) -> Any:
        """Returns the batches of some epochs, one after the other, as a `tf.data.Dataset`.

        They are made ready while the network computes, and pixels are float32.
        """
        import tensorflow as tf  # Its pipelines feed every backend.

        parts: list[tuple[Augment | None, list[int]]] = []
        for epoch in epochs:
            augment = self.augment(epoch) if self.augment else None
            if not parts or parts[-1][0] is not augment:
                parts.append((augment, []))
            parts[-1][1].append(epoch)
        first, *others = [self._part(augment, part) for augment, part in parts]
        for other in others:
            first = first.concatenate(other)
        # The thread that tunes the numbers sometimes sleeps on for ten seconds when all is done.
        options = tf.data.Options()
        options.autotune.enabled = False
        return first.prefetch(_READY).with_options(options)

    def _part(self, augment: Augment | None, epochs: list[int]) -> Any:
        """Returns the batches of epochs that are augmented alike."""
        import tensorflow as tf

        boxes = getattr(augment, "boxes", None)

        def produce() -> Iterator[tuple[np.ndarray, ...]]:
            for epoch in epochs:
                for step, chosen in enumerate(self.indices(epoch)):
                    extra = () if boxes is None else (boxes[chosen],)
                    yield *self.of(chosen), _seed(self.seed, epoch, step), *extra

        def finish(x: Any, y: Any, seed: Any, *extra: Any) -> tuple[Any, Any]:
            x = tf.cast(x, tf.float32)
            return augment(x, y, seed, *extra) if augment else (x, y)

        numbers = self.one_hot.shape[1:] if self.y.ndim == 1 else self.y.shape[1:]
        signature = [
            tf.TensorSpec((None, *self.x.shape[1:]), self.x.dtype),
            tf.TensorSpec((None, *numbers), tf.float32),
            tf.TensorSpec((2,), tf.int32),
        ]
        if boxes is not None:
            signature.append(tf.TensorSpec((None, *boxes.shape[1:]), boxes.dtype))
        made = tf.data.Dataset.from_generator(produce, output_signature=tuple(signature))
        # Otherwise Keras finds its end by running into it, and warns of that.
        made = made.apply(tf.data.experimental.assert_cardinality(len(epochs) * self.steps))
        return made.map(finish, os.cpu_count(), deterministic=True)

    def _order(self, epoch: int) -> np.ndarray:
        if self.sampler:
            return self.sampler(epoch)
        n = len(self.x)
        return np.arange(n) if self.seed is None else order(self.seed, epoch, n)


def _seed(seed: int | None, epoch: int, step: int) -> np.ndarray:
    return np.random.SeedSequence((seed or 0, epoch, step)).generate_state(2).view(np.int32)
