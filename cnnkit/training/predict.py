"""The outputs of a Keras model for any number of pictures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

# Pixels a step, that many small pictures have or a few large ones, and the least and the most of
# these; how many pixels are float32 at a time, since pictures may be on a disk.
_STEP = 2**21
_BATCHES = 16, 256
_FLOATS = 2**26


def predict_keras(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Returns the outputs of a Keras model for raw pixels of any type."""
    pixels = math.prod(x.shape[1:])
    batch = int(np.clip(_STEP // pixels, *_BATCHES))
    rows = max(1, _FLOATS // pixels // batch) * batch
    parts = [
        model.predict(np.asarray(x[k : k + rows], np.float32), batch_size=batch, verbose=0)
        for k in range(0, max(1, len(x)), rows)
    ]
    return np.concatenate(parts, dtype=np.float32)
