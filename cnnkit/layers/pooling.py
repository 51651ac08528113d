"""What pooling layers that Keras lacks have in common."""

from typing import Any

import keras
import numpy as np
from keras import ops

from cnnkit import checks
from cnnkit.types import Shape
from cnnkit.types import Tensor

# Below any value, as far as results are concerned.
_TINY = 1e-30


class Pooling2D(keras.layers.Layer):
    """A window that moves over the picture, of each channel by itself; channels last.

    Args:
        pool_size: Side of the square window, at least 1. The default halves the picture.
        strides: Step of the window, at least 1; None is `pool_size`.
        padding: "valid" or "same"; what is padded counts as zero.

    Raises:
        ValueError: If an argument is not one of these.
    """

    def __init__(
        self, pool_size: int = 2, strides: int | None = None, padding: str = "valid", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        owner = type(self).__name__
        self.pool_size = checks.integer(owner, "pool_size", pool_size, 1)
        self.strides = (
            pool_size if strides is None else checks.integer(owner, "strides", strides, 1)
        )
        self.padding = checks.one_of(owner, "padding", padding, ("valid", "same"))
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def windows(self, x: Tensor) -> Tensor:
        """Returns the values of each window, `(batch, height, width, channels, values)`."""
        channels, values = x.shape[-1], self.pool_size**2
        # A depthwise convolution that copies: one operation in every runtime, integer ones too.
        picks = np.eye(values).reshape(self.pool_size, self.pool_size, 1, values)
        kernel = ops.cast(np.repeat(picks, channels, 2), x.dtype)
        y = ops.depthwise_conv(x, kernel, self.strides, self.padding, "channels_last")
        return ops.reshape(y, (-1, *ops.shape(y)[1:3], channels, values))

    def ratios(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the largest value of each window, and all values divided by it.

        For formulas that over- or underflow on the values themselves, but do not depend on the
        divisor: no gradient passes through it. No input may be negative.
        """
        values = self.windows(x)
        largest = ops.stop_gradient(ops.max(values, axis=-1, keepdims=True))
        return ops.squeeze(largest, -1), values / ops.maximum(largest, _TINY)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, *sides, channels = input_shape
        lost = self.pool_size - 1 if self.padding == "valid" else 0
        pooled = (side and -((lost - side) // self.strides) for side in sides)
        return (batch, *pooled, channels)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
        }


def single_precision(x: Tensor) -> Tensor:
    """Returns `x`, half precision as float32: its powers and their sums need the range."""
    half = keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16")
    return ops.cast(x, "float32") if half else x
