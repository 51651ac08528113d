"""Pooling that picks one activation of each window at random."""

from typing import Any

import keras
from keras import ops

from cnnkit.layers.pooling import Pooling2D
from cnnkit.layers.pooling import single_precision
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("layer")
class StochasticPooling2D(Pooling2D):
    """Gives one activation of each window, which is picked with a probability like its size.

    Of a window with the activations `a_i >= 0`, `p_i = a_i / Σ_k a_k`. In training, the output is
    `a_l` with `l` drawn from `p`, and the gradient goes to `a_l` alone. In inference it is the
    mean `Σ_i p_i a_i`. A window of zeros gives 0. Negative inputs count as zero: the layer is meant
    to stand behind a ReLU.

    Args:
        pool_size: Side of the square window, at least 1. The paper's is 3.
        strides: Step of the window, at least 1; None is `pool_size`. The paper's is 2.
        padding: "valid" or "same"; padding is never picked.
        seed: Of the draws in training, an integer or None.

    Input shape:
        `(batch, height, width, channels)`, float.

    Output shape:
        `(batch, pooled height, pooled width, channels)`.

    Raises:
        ValueError: If an argument is not one of these.

    Example:
        >>> x = keras.ops.reshape(keras.ops.array([1.0, 0.0, 3.0, 0.0]), (1, 2, 2, 1))
        >>> float(keras.ops.squeeze(StochasticPooling2D(2)(x)))  # 1/4 * 1 + 3/4 * 3
        2.5

    Reference:
        Zeiler and Fergus 2013, "Stochastic Pooling for Regularization of Deep Convolutional
        Neural Networks", eq. 4 to 6, https://arxiv.org/abs/1301.3557. Differs: the default window
        is 2x2 without overlap.
    """

    def __init__(
        self,
        pool_size: int = 2,
        strides: int | None = None,
        padding: str = "valid",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, **kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        x = ops.relu(single_precision(inputs))
        y = self._drawn(x) if training else self._expected(x)
        return ops.cast(y, inputs.dtype)

    def _drawn(self, x: Tensor) -> Tensor:
        values = self.windows(x)
        edges = ops.cumsum(ops.stop_gradient(values), axis=-1)
        place = keras.random.uniform(
            ops.shape(edges[..., -1:]), dtype=edges.dtype, seed=self.seed_generator
        )
        index = ops.sum(ops.cast(edges <= place * edges[..., -1:], "int32"), axis=-1, keepdims=True)
        # Of a window of zeros, the index lies behind the last value: nothing is picked.
        picked = ops.cast(index == ops.arange(self.pool_size**2), x.dtype)
        return ops.sum(values * picked, axis=-1)

    def _expected(self, x: Tensor) -> Tensor:
        largest, ratios = self.ratios(x)
        sums = ops.maximum(ops.sum(ratios, axis=-1), 0.5)  # At least 1, or of zeros.
        return largest * (ops.sum(ops.square(ratios), axis=-1) / sums)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}
