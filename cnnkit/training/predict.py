"""The outputs of a Keras model for any number of pictures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

# Keras' own batches; and how many pixels are float32 at a time, since pictures may be on a disk.
_BATCH = 32
_FLOATS = 2**26


def predict_keras(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Returns the outputs of a Keras model for raw pixels of any type."""
    rows = max(_BATCH, _FLOATS // math.prod(x.shape[1:]) // _BATCH * _BATCH)
    parts = [
        model.predict(np.asarray(x[k : k + rows], np.float32), verbose=0)
        for k in range(0, max(1, len(x)), rows)
    ]
    return np.concatenate(parts, dtype=np.float32)
