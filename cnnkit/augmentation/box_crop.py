"""Crops around what matters."""

import tensorflow as tf

from cnnkit import checks
from cnnkit.augmentation.augmentation import uniform
from cnnkit.augmentation.warp import Warp
from cnnkit.augmentation.warp import affine
from cnnkit.augmentation.warp import cropped
from cnnkit.augmentation.warp import extent
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("augmentation")
class BoxCrop(Warp):
    """Takes a part of a picture that holds a given box, and brings it back to the picture's size.

    The part has the shape of the picture and is little larger than the box; its place is drawn
    from those that hold the box. In a `Stack` it is the first: boxes do not move with pixels.

    Args:
        low: Smallest side of the part as a fraction of the picture's, in (0, 1].
        slack: By how much of itself a side may be longer than the box needs, not negative.
        probability: Of cropping a picture, in [0, 1]; the others stay whole.

    Raises:
        ValueError: If an argument is outside its interval, or there are no boxes in a call.

    Reference:
        Wei 2017, section 5.2.2. Differs: a fresh part each time, where the book cuts each picture
        once.
    """

    def __init__(self, low: float = 0.4, slack: float = 0.25, probability: float = 0.5) -> None:
        self.low = checks.in_range("BoxCrop", "low", low, 0.0, 1.0, closed="right")
        self.slack = checks.in_range("BoxCrop", "slack", slack, 0.0, float("inf"), closed="left")
        self.probability = checks.in_range("BoxCrop", "probability", probability, 0.0, 1.0)

    def matrices(self, x: Tensor, seed: Tensor, boxes: Tensor | None = None) -> Tensor:
        if boxes is None:
            raise ValueError(
                "BoxCrop needs `boxes`: top, left, bottom and right of what matters in each "
                "picture, as fractions of its height and width. Received: boxes=None"
            )
        n, height, width = extent(x)
        draws = uniform(seed, (4, n))
        starts, ends = tf.transpose(boxes[:, :2]), tf.transpose(boxes[:, 2:])  # (2, n)
        tight = tf.maximum(tf.reduce_max(ends - starts, 0), self.low)
        side = tf.minimum(tight * (1 + self.slack * draws[0]), 1.0)
        first, last = tf.maximum(ends - side, 0.0), tf.minimum(starts, 1 - side)
        crops = cropped(n, (height, width), side, first + (last - first) * draws[1:3])
        whole = affine(n, (1, 0, 0), (0, 1, 0))
        return tf.where(draws[3][:, None, None] < self.probability, crops, whole)
