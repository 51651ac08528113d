"""Larger and smaller."""

from cnnkit import checks
from cnnkit.augmentation.augmentation import uniform
from cnnkit.augmentation.warp import Warp
from cnnkit.augmentation.warp import affine
from cnnkit.augmentation.warp import extent
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("augmentation")
class Scale(Warp):
    """Makes what each picture shows larger or smaller, about its centre and at its size.

    The logarithm of the factor is drawn evenly, so that half and double are alike.

    Args:
        low: Smallest factor, positive.
        high: Largest factor, at least `low`.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Wei 2017, section 5.1. Differs: any factor in the interval, where the book names 0.8, 0.9,
        1.1, 1.2 and 1.3.
    """

    def __init__(self, low: float = 0.8, high: float = 1.3) -> None:
        self.low = checks.in_range("Scale", "low", low, 0.0, float("inf"), closed="neither")
        self.high = checks.in_range("Scale", "high", high, low, float("inf"), closed="left")

    def matrices(self, x: Tensor, seed: Tensor, boxes: Tensor | None = None) -> Tensor:
        n, height, width = extent(x)
        inverse = self.low**-1 * (self.low / self.high) ** uniform(seed, (n,))
        shift = (1 - inverse) / 2
        return affine(n, (inverse, 0, shift * (width - 1)), (0, inverse, shift * (height - 1)))
