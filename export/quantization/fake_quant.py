"""Temporary layers that compute in float32 what int8 will be able to hold.

A simulation twin (`export.quantization.twin`) is made of them; `finalize` leaves none behind.

Reference:
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 3, https://arxiv.org/abs/1712.05877. Differs:
    weights are symmetric and per output channel, as in Krishnamoorthi 2018,
    https://arxiv.org/abs/1806.08342, section 3.1.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf  # Converters only know TensorFlow's own fake quantization.
from keras import ops

from cnnkit.types import Tensor

# The steps of an 8-bit grid; weights leave out -128, so that theirs is symmetric.
STEPS = 255
WEIGHT_STEPS = 127
# A narrower range is that of a tensor which is always zero: any scale holds it.
_NOTHING = 1e-7


def nudged(low: float, high: float) -> tuple[float, float]:
    """Returns the closest range, with zero in it, on whose grid zero is exact.

    Example:
        >>> nudged(-0.5, 254.5)
        (0.0, 255.0)
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if high - low < _NOTHING:
        low, high = 0.0, 1.0
    scale = (high - low) / STEPS
    zero = int(np.clip(np.floor(0.5 - low / scale), 0, STEPS))
    return -zero * scale, (STEPS - zero) * scale


def weight_limits(kernel: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Returns the largest magnitude over `axes`: ±127 of the grid.

    Channels that are zero altogether get the limit of the widest one: any would do.
    """
    limits = np.abs(kernel).max(axes)
    return np.where(limits > 0, limits, limits.max() or 1.0).astype(np.float32)


class Range(keras.layers.Layer):
    """Puts activations on the grid of a range, and learns the range while it trains.

    The range is the moving average of the smallest and the largest value of every batch, at
    first their plain mean. Gradients pass where the input is inside the range.

    Args:
        limits: The range, if it is known: then nothing is learned. The grid of one that `nudged`
            returned is the grid of the integer file.
        momentum: Part of the old range in the moving average, in [0, 1).
    """

    def __init__(
        self, limits: tuple[float, float] | None = None, momentum: float = 0.99, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.limits, self.momentum = limits, momentum
        self.observing = False

    def build(self, input_shape: Any) -> None:
        if self.limits is None:
            zero = {"initializer": "zeros", "trainable": False}
            self.low = self.add_weight(name="low", **zero)
            self.high = self.add_weight(name="high", **zero)
            self.batches = self.add_weight(name="batches", **zero)

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        if self.limits is not None:
            low, high = self.limits
            return tf.quantization.fake_quant_with_min_max_args(x, low, high)
        low, high = ops.convert_to_tensor(self.low), ops.convert_to_tensor(self.high)
        if training or self.observing:
            keep = ops.minimum(self.momentum, self.batches / (self.batches + 1))
            seen = ops.stop_gradient(x)
            low = keep * low + (1 - keep) * ops.minimum(ops.min(seen), 0.0)
            high = keep * high + (1 - keep) * ops.maximum(ops.max(seen), 0.0)
            self.low.assign(low)
            self.high.assign(high)
            self.batches.assign_add(1)
        # A range of no width would make the op divide by zero.
        high = ops.maximum(high, low + _NOTHING)
        return tf.quantization.fake_quant_with_min_max_vars(x, low, high)

    def compute_output_spec(self, x: Tensor, training: bool = False) -> Any:
        return keras.KerasTensor(x.shape, x.dtype)

    def learned(self) -> tuple[float, float]:
        """Returns the range, with zero on the grid."""
        return self.limits or nudged(float(self.low), float(self.high))


class _Weighted:
    """A kernel that is on the int8 grid whenever it is read.

    Attributes:
        channels: Axes of the kernel that have a scale for each of their indices.
        frozen: Limits that were computed once, as converters need them, or None.
        plain: Whether the kernel is on the grid already, and read as it is.
    """

    channels: tuple[int, ...] = (-1,)
    frozen: np.ndarray | None = None
    plain = False
    _kernel: Any

    @property
    def kernel(self) -> Tensor:
        if self.plain:
            return self._kernel
        kernel = ops.convert_to_tensor(self._kernel)
        limits = self.frozen
        if limits is None:
            magnitude = ops.max(ops.abs(ops.stop_gradient(kernel)), self._reduced(kernel.shape))
            limits = ops.where(magnitude > 0, magnitude, 1.0)
        if not self.channels:
            return tf.quantization.fake_quant_with_min_max_vars(
                kernel, -limits, limits, narrow_range=True
            )
        shape = kernel.shape
        # The op has scales for the last axis only.
        flat = ops.reshape(kernel, (*shape[: -len(self.channels)], -1))
        limits = ops.reshape(limits, (-1,))
        flat = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            flat, -limits, limits, narrow_range=True
        )
        return ops.reshape(flat, shape)

    @kernel.setter
    def kernel(self, variable: Any) -> None:
        self._kernel = variable

    def _reduced(self, shape: Any) -> tuple[int, ...]:
        return tuple(range(len(shape) - len(self.channels)))

    def on_grid(self) -> np.ndarray:
        """Returns the kernel as it is used."""
        return np.asarray(self.kernel)

    def freeze(self, scale: float) -> None:
        """Computes the limits, from now on constants, and rounds the bias as int32 does.

        Args:
            scale: Of the input: a step of the bias is that times the scale of the weights. Wide
                steps would shift the outputs, and narrow ones overflow.
        """
        kernel = np.asarray(self._kernel)
        limits = weight_limits(kernel, self._reduced(kernel.shape))
        if self.use_bias:  # type: ignore[attr-defined]
            bias = np.abs(np.asarray(self.bias))  # type: ignore[attr-defined]
            bias = bias.reshape(limits.shape) if self.channels else bias.max()
            limits = np.maximum(limits, bias * (WEIGHT_STEPS / scale / 2**30))
            step = (np.float64(limits) * scale / WEIGHT_STEPS).reshape(-1)
            self.bias.assign(np.rint(np.asarray(self.bias) / step) * step)  # type: ignore[attr-defined]
        self.frozen = limits.astype(np.float32)


class Conv1D(_Weighted, keras.layers.Conv1D):
    """Convolution, its kernel on the int8 grid, a scale for each filter."""


class Conv2D(_Weighted, keras.layers.Conv2D):
    """Convolution, its kernel on the int8 grid, a scale for each filter."""


class DepthwiseConv2D(_Weighted, keras.layers.DepthwiseConv2D):
    """Depthwise convolution, its kernel on the int8 grid, a scale for each output channel."""

    channels = (-2, -1)


class Dense(_Weighted, keras.layers.Dense):
    """Dense layer, its kernel on the int8 grid of one scale, as TFLite's is."""

    channels: tuple[int, ...] = ()


class DensePerChannel(Dense):
    """Dense layer that is to become a 1x1 convolution: a scale for each output."""

    channels = (-1,)


class HardSwish(keras.layers.Layer):
    """`x relu6(x + 3) / 6` in the very operations that the TFLite converter knows as one."""

    def call(self, x: Tensor) -> Tensor:
        return x * tf.nn.relu6(x + 3.0) * (1.0 / 6.0)
