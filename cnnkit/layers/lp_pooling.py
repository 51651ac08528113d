"""Pooling by the p-norm of each window."""

import math
from typing import Any

from keras import ops

from cnnkit import checks
from cnnkit.layers.pooling import Pooling2D
from cnnkit.layers.pooling import single_precision
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("layer")
class LpPooling2D(Pooling2D):
    """Gives the p-norm `(Σ_i |a_i|^p)^(1/p)` of each window. Same in training and inference.

    `p = 1` is the sum of the magnitudes, `p = inf` the largest of them: max pooling, if no input
    is negative. No power over- or underflows, however large `p` is: the values of a window are
    divided by the largest first. The gradient of a window of zeros is zero.

    Args:
        p: Order of the norm, in [1, inf].
        pool_size: Side of the square window, at least 1.
        strides: Step of the window, at least 1; None is `pool_size`.
        padding: "valid" or "same"; what is padded counts as zero.

    Input shape:
        `(batch, height, width, channels)`, float.

    Output shape:
        `(batch, pooled height, pooled width, channels)`.

    Raises:
        ValueError: If an argument is not one of these.

    Example:
        >>> x = ops.reshape(ops.array([3.0, 0.0, -4.0, 0.0]), (1, 2, 2, 1))
        >>> float(ops.squeeze(LpPooling2D(2.0)(x)))
        5.0

    Reference:
        Sermanet et al. 2012, "Convolutional Neural Networks Applied to House Numbers Digit
        Classification", section 2.2, https://arxiv.org/abs/1204.3968. Differs: all values of the
        window have the weight 1, where the paper has those of a Gaussian.
    """

    def __init__(
        self,
        p: float = 2.0,
        pool_size: int = 2,
        strides: int | None = None,
        padding: str = "valid",
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, **kwargs)
        self.p = checks.in_range("LpPooling2D", "p", p, 1.0, math.inf)

    def call(self, inputs: Tensor) -> Tensor:
        x = ops.abs(single_precision(inputs))
        if self.p == math.inf:
            y = ops.max_pool(x, self.pool_size, self.strides, self.padding, "channels_last")
        else:
            largest, ratios = self.ratios(x)
            # At least 1, or of zeros, where the root has no gradient.
            sums = ops.maximum(ops.sum(ops.power(ratios, self.p), axis=-1), 0.5)
            y = largest * ops.power(sums, 1 / self.p)
        return ops.cast(y, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "p": self.p}
