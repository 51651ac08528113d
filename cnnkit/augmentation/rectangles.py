"""Rectangles in pictures."""

import tensorflow as tf

from cnnkit.types import Tensor


def inside(x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Returns which pixels of pictures have their middle in a rectangle, `(n, height, width)`.

    Args:
        x: The pictures.
        start: Top and left of each rectangle, as fractions of height and width, `(2, n)`; what
            lies outside of the picture is cut off.
        end: Bottom and right.
    """

    def along(axis: int) -> Tensor:
        size = tf.shape(x)[axis + 1]
        middles = (tf.range(size, dtype=tf.float32) + 0.5) / tf.cast(size, tf.float32)
        return (middles >= start[axis][:, None]) & (middles < end[axis][:, None])

    return along(0)[:, :, None] & along(1)[:, None, :]
