"""A loss of regression that outliers do not move."""

from typing import Any

import keras
from keras import ops

from cnnkit import checks
from cnnkit.registry import register
from cnnkit.types import Tensor

# The standard deviation of a normal distribution is so many times its median absolute deviation.
NORMAL = 1.4826


@register("loss")
class TukeyBiweight(keras.losses.Loss):
    """Tukey's biweight: like the squared error near zero, constant for large residuals.

    Each residual `r = (y - ŷ) / scale` has `c²/6 (1 - (1 - (r/c)²)³)` if `|r| <= c`, else `c²/6`;
    an example has the sum over its outputs.

    Args:
        c: Where the loss stops growing, positive. At 4.6851 it has 95 % of the efficiency of the
            squared error if residuals are standard normal.
        scale: What a residual is divided by, positive. None takes 1.4826 times the median
            absolute deviation of each output over the batch, which no gradient goes through; an
            output for which that is 0 is not scaled.
        **kwargs: `name`, `reduction` and `dtype`, as every loss of Keras has them.

    Target shape:
        `y_true` and `y_pred`: `(batch, outputs)`.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> round(float(TukeyBiweight(scale=1.0)([[0.0]], [[100.0]])), 4)
        3.6584

    Reference:
        Belagiannis et al. 2015, "Robust Optimization for Deep Regression", eq. 3 to 5,
        https://arxiv.org/abs/1505.06606. Differs: nothing.
    """

    def __init__(self, c: float = 4.6851, scale: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)

        def positive(name: str, value: float) -> float:
            return checks.in_range(
                "TukeyBiweight", name, value, 0.0, float("inf"), closed="neither"
            )

        self.c = positive("c", c)
        self.scale = None if scale is None else positive("scale", scale)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        residuals = ops.convert_to_tensor(y_true) - ops.convert_to_tensor(y_pred)
        scale = self._deviation(residuals) if self.scale is None else self.scale
        inside = ops.minimum(ops.square(residuals / scale / self.c), 1)
        return ops.sum(self.c**2 / 6 * (1 - (1 - inside) ** 3), -1)

    def _deviation(self, residuals: Tensor) -> Tensor:
        residuals = ops.stop_gradient(residuals)
        distances = ops.abs(residuals - ops.median(residuals, 0, keepdims=True))
        deviation = NORMAL * ops.median(distances, 0, keepdims=True)
        return ops.where(deviation > 0, deviation, 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "c": self.c, "scale": self.scale}
