"""What tests of augmentations feed them."""

import numpy as np
import tensorflow as tf


def pictures(n=8, height=12, width=10, channels=3, seed=0):
    """Noise, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, height, width, channels)).astype("float32")


def apply(part, x, y=None, seed=(3, 5), boxes=None):
    """Returns pixels and labels as NumPy arrays; without `y`, each picture is its own class."""
    y = np.eye(len(x), dtype="float32") if y is None else y
    boxes = None if boxes is None else tf.constant(boxes, "float32")
    results = part(tf.constant(x), tf.constant(y), tf.constant(seed, "int32"), boxes)
    return [np.asarray(result) for result in results]


def ramps(n, height, width):
    """Pictures whose channels are their columns and rows: they show where pixels are from."""
    rows, columns = np.mgrid[:height, :width].astype("float32")
    return np.repeat(np.stack([columns, rows], -1)[None], n, 0)
