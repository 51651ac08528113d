"""Crops from anywhere."""

from cnnkit import checks
from cnnkit.augmentation.augmentation import uniform
from cnnkit.augmentation.warp import Warp
from cnnkit.augmentation.warp import cropped
from cnnkit.augmentation.warp import extent
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("augmentation")
class RandomCrop(Warp):
    """Takes a part of each picture, of its shape, and brings it back to its size.

    Args:
        low: Smallest side of the part as a fraction of the picture's, in (0, 1].
        high: Largest side, in [low, 1].

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Wei 2017, section 5.1. Differs: of a picture that is no square the part is none either.
    """

    def __init__(self, low: float = 0.8, high: float = 0.9) -> None:
        self.low = checks.in_range("RandomCrop", "low", low, 0.0, 1.0, closed="right")
        self.high = checks.in_range("RandomCrop", "high", high, low, 1.0)

    def matrices(self, x: Tensor, seed: Tensor, boxes: Tensor | None = None) -> Tensor:
        n, height, width = extent(x)
        draws = uniform(seed, (3, n))
        side = self.low + (self.high - self.low) * draws[0]
        return cropped(n, (height, width), side, (1 - side) * draws[1:])
