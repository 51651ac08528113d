"""A box that weights are kept in."""

from typing import Any

import keras
from keras import ops

from cnnkit import checks
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("constraint")
class Clip(keras.constraints.Constraint):
    """Puts each weight back into `[low, high]` after a training step: `min(max(w, low), high)`.

    Real weights behind binary ones need it: outside of [-1, 1] they would get no gradient.

    Args:
        low: Least value.
        high: Greatest value, above `low`.

    Raises:
        ValueError: If `high` is not above `low`, or one of them is infinite.

    Example:
        >>> Clip()(keras.ops.array([-3.0, 0.5, 2.0])).numpy().tolist()
        [-1.0, 0.5, 1.0]

    Reference:
        Courbariaux et al. 2015, "BinaryConnect: Training Deep Neural Networks with binary weights
        during propagations", section 2.4, https://arxiv.org/abs/1511.00363. Differs: nothing.
    """

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        infinity = float("inf")
        self.low = checks.in_range("Clip", "low", low, -infinity, infinity, closed="neither")
        self.high = checks.in_range("Clip", "high", high, self.low, infinity, closed="neither")

    def __call__(self, w: Tensor) -> Tensor:
        return ops.clip(w, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high}
