"""A penalty under which whole filters, channels or layers of a kernel become zero."""

import math
from typing import Any

import keras
from keras import ops

from cnnkit import checks
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("regularizer")
class GroupLasso(keras.regularizers.Regularizer):
    """Sums the L2 norms of groups of weights: `strength * Σ_g sqrt(size of g) * ‖W_g‖`.

    Each kind of group has a strength of its own, in [0, inf); the terms of all kinds are added.
    For kernels `(…, inputs, outputs)` of convolutions and dense layers. A transposed convolution
    has `filters` and `channels` the other way round; a depthwise kernel has its channels on the
    axis of `channels`.

    Args:
        filters: Strength for groups that make one output. The default suits kernels whose
            loss is a mean over a batch, of the size of a cross-entropy.
        channels: Strength for groups that read one input.
        shapes: Strength for groups at one place and input, over all filters.
        depth: Strength for the whole kernel as one group; only where a shortcut lies around it.

    Raises:
        ValueError: If a strength is negative, or when called on less than two axes.

    Example:
        >>> round(float(GroupLasso(filters=1.0)(keras.ops.array([[3.0, 0.0], [4.0, 0.0]]))), 4)
        7.0711

    Reference:
        Wen et al. 2016, "Learning Structured Sparsity in Deep Neural Networks", eq. 2 to 4,
        https://arxiv.org/abs/1608.03665. Differs: groups are weighted by the square roots of
        their sizes, as in Yuan and Lin 2006, eq. 2.1, so that one strength serves all layers; the
        gradient of a group that is zero is zero.
    """

    def __init__(
        self,
        filters: float = 1e-4,
        channels: float = 0.0,
        shapes: float = 0.0,
        depth: float = 0.0,
    ) -> None:
        given = {"filters": filters, "channels": channels, "shapes": shapes, "depth": depth}
        for name, value in given.items():
            strength = checks.in_range("GroupLasso", name, value, 0.0, float("inf"), closed="left")
            setattr(self, name, strength)

    def __call__(self, x: Tensor) -> Tensor:
        x = ops.convert_to_tensor(x)
        rank = len(x.shape)
        if rank < 2:
            raise ValueError(f"GroupLasso needs a kernel of two axes or more. Received: {x.shape}")
        *places, inputs, outputs = range(rank)
        squares = ops.square(x)
        total = ops.zeros((), x.dtype)
        for strength, axes in (
            (self.filters, (*places, inputs)),
            (self.channels, (*places, outputs)),
            (self.shapes, (outputs,)),
            (self.depth, tuple(range(rank))),
        ):
            if strength:
                sums = ops.sum(squares, axes)
                size = math.prod(x.shape[axis] for axis in axes)
                # The root's gradient at zero is infinite, and NaN after the chain rule.
                norms = ops.where(sums > 0, ops.sqrt(ops.where(sums > 0, sums, 1)), 0)
                total += strength * math.sqrt(size) * ops.sum(norms)
        return total

    def get_config(self) -> dict[str, Any]:
        return {
            "filters": self.filters,
            "channels": self.channels,
            "shapes": self.shapes,
            "depth": self.depth,
        }
