"""Colours that are a little off."""

import tensorflow as tf

from cnnkit import checks
from cnnkit.augmentation.augmentation import Augmentation
from cnnkit.augmentation.augmentation import clipped
from cnnkit.augmentation.augmentation import uniform
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("augmentation")
class RGBJitter(Augmentation):
    """Adds a number to each channel of each picture; to a grey one, light.

    Args:
        strength: Largest number, as a fraction of the range of the pixels, in [0, 1].

    Raises:
        ValueError: If `strength` is outside its interval.

    Reference:
        Wei 2017, section 5.1. Differs: the book does not say how much, nor of what distribution.
    """

    def __init__(self, strength: float = 0.08) -> None:
        self.strength = checks.in_range("RGBJitter", "strength", strength, 0.0, 1.0)

    def __call__(
        self, x: Tensor, y: Tensor, seed: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        most = 255 * self.strength
        return clipped(x + uniform(seed, (tf.shape(x)[0], 1, 1, x.shape[-1]), -most, most)), y
