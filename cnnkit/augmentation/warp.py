"""Augmentations that move pixels."""

from typing import Any

import tensorflow as tf

from cnnkit.augmentation.augmentation import Augmentation
from cnnkit.types import Tensor


class Warp(Augmentation):
    """Base of augmentations that move pixels and leave labels alone.

    A subclass gives a matrix for each picture. `Stack` multiplies those of neighbours, so that
    pixels are interpolated once. What lies outside of a picture is its mirror image.
    """

    def matrices(self, x: Tensor, seed: Tensor, boxes: Tensor | None = None) -> Tensor:
        """Returns `(n, 3, 3)`, from (column, row, 1) in a result to those in its picture."""
        raise NotImplementedError

    def __call__(
        self, x: Tensor, y: Tensor, seed: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return warped(x, self.matrices(x, seed, boxes)), y


def warped(x: Tensor, matrices: Tensor) -> Tensor:
    """Returns pictures whose pixels come from where the matrices say, bilinearly."""
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=x,
        transforms=tf.reshape(matrices, (-1, 9))[:, :8],
        output_shape=tf.shape(x)[1:3],
        interpolation="BILINEAR",
        fill_mode="REFLECT",
        fill_value=0.0,
    )
    return tf.ensure_shape(moved, x.shape)


def extent(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns number, height and width of pictures; the sizes as float32."""
    shape = tf.shape(x)
    return shape[0], tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)


def affine(n: Tensor, column: tuple[Any, Any, Any], row: tuple[Any, Any, Any]) -> Tensor:
    """Returns matrices of maps `column = a·column + b·row + c`, and `row` alike.

    Args:
        n: Number of pictures.
        column: a, b, c: each a number, or one for each picture.
        row: The same for rows.
    """
    entries = [tf.broadcast_to(tf.cast(v, tf.float32), (n,)) for v in (*column, *row, 0, 0, 1)]
    return tf.reshape(tf.stack(entries, -1), (n, 3, 3))


def cropped(n: Tensor, size: tuple[Tensor, Tensor], side: Tensor, corner: Tensor) -> Tensor:
    """Returns matrices of crops that are brought back to the size of the picture.

    Args:
        n: Number of pictures.
        size: Height and width of the pictures.
        side: Of each crop, as a fraction of the picture's, `(n,)`.
        corner: Top and left of each crop, as fractions of height and width, two of `(n,)`.
    """
    (height, width), (top, left) = size, (corner[0], corner[1])
    # Pixels are squares around their places: half of one is the distance to the edge.
    half = (side - 1) / 2
    return affine(n, (side, 0, half + left * width), (0, side, half + top * height))
