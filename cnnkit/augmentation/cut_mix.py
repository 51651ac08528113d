"""A piece of another picture."""

import tensorflow as tf

from cnnkit import checks
from cnnkit.augmentation.augmentation import Augmentation
from cnnkit.augmentation.augmentation import split
from cnnkit.augmentation.augmentation import uniform
from cnnkit.augmentation.mixing import beta
from cnnkit.augmentation.mixing import partners
from cnnkit.augmentation.rectangles import inside
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("augmentation")
class CutMix(Augmentation):
    """Puts a rectangle of another picture of the batch over each, and mixes labels by its area.

    The rectangle has the shape of the picture and `1 - λ` of its area; its centre is anywhere, and
    what lies outside of the picture is cut off.

    Args:
        alpha: λ is drawn from Beta(alpha, alpha), positive; 1 draws it evenly.

    Raises:
        ValueError: If `alpha` is outside its interval.

    Reference:
        Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
        Localizable Features", eq. 1-2, https://arxiv.org/abs/1905.04899. Differs: each picture has
        its rectangle, where the authors' code draws one for a batch.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = checks.in_range("CutMix", "alpha", alpha, 0.0, float("inf"), closed="neither")

    def __call__(
        self, x: Tensor, y: Tensor, seed: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        n = tf.shape(x)[0]
        of_partners, of_shares, of_centres = split(seed, 3)
        others = partners(of_partners, n)
        half = tf.sqrt(1 - beta(of_shares, n, self.alpha)) / 2
        centres = uniform(of_centres, (2, n))
        covered = inside(x, centres - half, centres + half)
        share = tf.reduce_mean(tf.cast(covered, tf.float32), (1, 2))[:, None]
        x = tf.where(covered[..., None], tf.gather(x, others), x)
        return x, (1 - share) * y + share * tf.gather(y, others)
