"""Something in front."""

import tensorflow as tf

from cnnkit import checks
from cnnkit.augmentation.augmentation import Augmentation
from cnnkit.augmentation.augmentation import uniform
from cnnkit.augmentation.rectangles import inside
from cnnkit.registry import register
from cnnkit.types import Tensor

# Longest side of a rectangle by its shortest, as in the paper.
SLIMMEST = 1 / 0.3


@register("augmentation")
class Erasing(Augmentation):
    """Fills a rectangle of a picture with the picture's mean colour.

    Args:
        low: Smallest area of the rectangle as a fraction of the picture's, in [0, 1].
        high: Largest area, in [low, 1].
        probability: Of filling one in a picture, in [0, 1].

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Zhong et al. 2020, "Random Erasing Data Augmentation", algorithm 1,
        https://arxiv.org/abs/1708.04896. Differs: the mean of the picture, where the paper's best
        is random pixels, which cost more than all else here; the logarithm of the ratio of the
        sides is drawn evenly; a rectangle too long for the picture is made as long as that.
    """

    def __init__(self, low: float = 0.02, high: float = 0.4, probability: float = 0.5) -> None:
        self.low = checks.in_range("Erasing", "low", low, 0.0, 1.0)
        self.high = checks.in_range("Erasing", "high", high, low, 1.0)
        self.probability = checks.in_range("Erasing", "probability", probability, 0.0, 1.0)

    def __call__(
        self, x: Tensor, y: Tensor, seed: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        draws = uniform(seed, (5, tf.shape(x)[0]))
        area = self.low + (self.high - self.low) * draws[0]
        root = SLIMMEST ** (draws[1] - 0.5)  # of the ratio of the sides
        sides = tf.minimum(tf.sqrt(area) * tf.stack([root, 1 / root]), 1.0)
        sides *= tf.cast(draws[2] < self.probability, tf.float32)
        start = (1 - sides) * draws[3:]
        means = tf.reduce_mean(x, (1, 2), keepdims=True)
        return tf.where(inside(x, start, start + sides)[..., None], means, x), y
