"""Pictures turned about their centre."""

import math

import tensorflow as tf

from cnnkit import checks
from cnnkit.augmentation.augmentation import uniform
from cnnkit.augmentation.warp import Warp
from cnnkit.augmentation.warp import affine
from cnnkit.augmentation.warp import extent
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("augmentation")
class Rotation(Warp):
    """Turns each picture about its centre, at its size.

    Args:
        low_deg: Smallest angle in degrees, in [-180, 180]; positive turns are counterclockwise.
        high_deg: Largest angle in degrees, in [low_deg, 180].

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Wei 2017, section 5.1. Differs: any angle in the interval, where the book names -30, -15,
        15 and 30 degrees.
    """

    def __init__(self, low_deg: float = -30.0, high_deg: float = 30.0) -> None:
        self.low_deg = checks.in_range("Rotation", "low_deg", low_deg, -180.0, 180.0)
        self.high_deg = checks.in_range("Rotation", "high_deg", high_deg, low_deg, 180.0)

    def matrices(self, x: Tensor, seed: Tensor, boxes: Tensor | None = None) -> Tensor:
        n, height, width = extent(x)
        angle = uniform(seed, (n,), self.low_deg, self.high_deg) * (math.pi / 180)
        cos, sin = tf.cos(angle), tf.sin(angle)
        across, down = (width - 1) / 2, (height - 1) / 2
        return affine(
            n,
            (cos, -sin, across - cos * across + sin * down),
            (sin, cos, down - sin * across - cos * down),
        )
