"""One augmentation after the other."""

from collections.abc import Sequence

import tensorflow as tf

from cnnkit.augmentation.augmentation import Augmentation
from cnnkit.augmentation.augmentation import split
from cnnkit.augmentation.box_crop import BoxCrop
from cnnkit.augmentation.group import Group
from cnnkit.augmentation.warp import Warp
from cnnkit.augmentation.warp import warped
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("augmentation")
class Stack(Group):
    """Does one augmentation after the other, each with a seed of its own.

    Neighbours that move pixels are done as one movement: faster, and pixels are interpolated once.

    Args:
        parts: Augmentations, at least one.

    Raises:
        ValueError: If there is none, or a `BoxCrop` is not the first.

    Reference:
        Wei 2017, section 5.1. Differs: nothing.
    """

    def __init__(self, parts: Sequence[Augmentation]) -> None:
        super().__init__(parts)
        if any(isinstance(part, BoxCrop) for part in self.parts[1:]):
            raise ValueError(
                "A BoxCrop in a Stack must be the first part: boxes do not move with pixels. "
                f"Received: parts={self.parts}"
            )

    def __call__(
        self, x: Tensor, y: Tensor, seed: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        movement = None
        for part, own in zip(self.parts, split(seed, len(self.parts)), strict=True):
            if isinstance(part, Warp):
                step = part.matrices(x, own, boxes)
                movement = step if movement is None else tf.matmul(movement, step)
            else:
                x, movement = x if movement is None else warped(x, movement), None
                x, y = part(x, y, own, boxes)
        return x if movement is None else warped(x, movement), y
