"""Two pictures in one."""

import tensorflow as tf

from cnnkit import checks
from cnnkit.augmentation.augmentation import Augmentation
from cnnkit.augmentation.augmentation import split
from cnnkit.augmentation.mixing import beta
from cnnkit.augmentation.mixing import partners
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("augmentation")
class MixUp(Augmentation):
    """Returns `λ x + (1 - λ) x'`, and the same of the labels, with another picture of the batch.

    Args:
        alpha: λ is drawn from Beta(alpha, alpha), positive: 1 draws it evenly, and the smaller,
            the more it is near 0 or 1.

    Raises:
        ValueError: If `alpha` is outside its interval.

    Reference:
        Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", eq. 2,
        https://arxiv.org/abs/1710.09412. Differs: each picture has its λ, where the authors' code
        draws one for a batch.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        self.alpha = checks.in_range("MixUp", "alpha", alpha, 0.0, float("inf"), closed="neither")

    def __call__(
        self, x: Tensor, y: Tensor, seed: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        n = tf.shape(x)[0]
        of_partners, of_shares = split(seed, 2)
        others, share = partners(of_partners, n), beta(of_shares, n, self.alpha)
        pixels, labels = share[:, None, None, None], share[:, None]
        x = pixels * x + (1 - pixels) * tf.gather(x, others)
        return x, labels * y + (1 - labels) * tf.gather(y, others)
