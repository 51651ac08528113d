"""One augmentation or the other."""

import tensorflow as tf

from cnnkit.augmentation.augmentation import split
from cnnkit.augmentation.augmentation import uniform
from cnnkit.augmentation.group import Group
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("augmentation")
class OneOf(Group):
    """Does one of its augmentations to each picture, such as `MixUp` or `CutMix`.

    All are computed for all pictures, and each picture takes the result of one.

    Args:
        parts: Augmentations, at least one; each is as likely as the others.

    Raises:
        ValueError: If there is none.

    Reference:
        Wightman et al. 2021, "ResNet strikes back", section 2.2, https://arxiv.org/abs/2110.00476,
        for mixup and CutMix. Differs: drawn for each picture, not for each batch.
    """

    def __call__(
        self, x: Tensor, y: Tensor, seed: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        of_choice, *seeds = split(seed, 1 + len(self.parts))
        choice = uniform(of_choice, (tf.shape(x)[0],), 0, len(self.parts))
        pictures, labels = x, y
        for k, (part, own) in enumerate(zip(self.parts, seeds, strict=True)):
            changed, told = part(x, y, own, boxes)
            pictures = tf.where((choice >= k)[:, None, None, None], changed, pictures)
            labels = tf.where((choice >= k)[:, None], told, labels)
        return pictures, labels
