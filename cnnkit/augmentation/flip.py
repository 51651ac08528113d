"""Mirror images."""

import tensorflow as tf

from cnnkit.augmentation.augmentation import uniform
from cnnkit.augmentation.warp import Warp
from cnnkit.augmentation.warp import affine
from cnnkit.augmentation.warp import extent
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("augmentation")
class Flip(Warp):
    """Turns half of the pictures left to right, and half of them upside down if that is allowed.

    Args:
        horizontal: Whether left and right may change places: not so with characters.
        vertical: Whether up and down may: seldom so but in pictures from above.

    Reference:
        Wei 2017, section 5.1. Differs: upside down too, if asked for.
    """

    def __init__(self, horizontal: bool = True, vertical: bool = False) -> None:
        self.horizontal = horizontal
        self.vertical = vertical

    def matrices(self, x: Tensor, seed: Tensor, boxes: Tensor | None = None) -> Tensor:
        n, height, width = extent(x)
        allowed = tf.constant([[self.horizontal], [self.vertical]])
        chosen = tf.cast(allowed & (uniform(seed, (2, n)) < 0.5), tf.float32)
        across, down = 1 - 2 * chosen[0], 1 - 2 * chosen[1]
        return affine(n, (across, 0, chosen[0] * (width - 1)), (0, down, chosen[1] * (height - 1)))
