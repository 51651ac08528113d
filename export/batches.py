"""Batches of pictures that fit the memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Numbers in a batch: 16 pictures of 224x224.
_NUMBERS = 16 * 224 * 224 * 3
# With fewer pictures, the variances of a batch are not those of the data.
_FEWEST = 4


def batches(x: np.ndarray, most: int) -> Iterator[slice]:
    """Yields the parts of `x`, each of at most so many pictures; of fewer, if they are large."""
    size = max(1, x[:1].size)
    step = min(most, max(_FEWEST, _NUMBERS // size))
    yield from (slice(start, start + step) for start in range(0, len(x), step))
