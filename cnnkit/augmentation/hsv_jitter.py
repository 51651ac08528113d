"""Colours of another hue, paler or stronger, darker or lighter."""

import tensorflow as tf

from cnnkit import checks
from cnnkit.augmentation.augmentation import Augmentation
from cnnkit.augmentation.augmentation import require_colours
from cnnkit.augmentation.augmentation import uniform
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("augmentation")
class HSVJitter(Augmentation):
    """Turns the hue of each picture a little, and multiplies its saturation and its value.

    Args:
        hue: Largest turn, as a fraction of the circle of colours, in [0, 0.5].
        saturation: By how much the factor of the saturation may differ from 1, in [0, 1].
        value: By how much the factor of the value may differ from 1, in [0, 1].

    Raises:
        ValueError: If an argument is outside its interval, or pictures in a call are grey.

    Reference:
        Wei 2017, section 5.1. Differs: the book does not say how much.
    """

    def __init__(self, hue: float = 0.02, saturation: float = 0.3, value: float = 0.3) -> None:
        self.hue = checks.in_range("HSVJitter", "hue", hue, 0.0, 0.5)
        self.saturation = checks.in_range("HSVJitter", "saturation", saturation, 0.0, 1.0)
        self.value = checks.in_range("HSVJitter", "value", value, 0.0, 1.0)

    def __call__(
        self, x: Tensor, y: Tensor, seed: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        require_colours("HSVJitter", x)
        most = tf.constant([self.hue, self.saturation, self.value])
        draws = uniform(seed, (tf.shape(x)[0], 1, 1, 3), -most, most)
        hue, rest = tf.split(tf.image.rgb_to_hsv(x / 255), [1, 2], -1)
        hue = tf.math.floormod(hue + draws[..., :1], 1.0)
        rest = tf.minimum(rest * (1 + draws[..., 1:]), 1.0)
        return 255 * tf.image.hsv_to_rgb(tf.concat([hue, rest], -1)), y
