"""Temporary layers that compute in float32 what int8 will be able to hold.

A simulation twin (`export.quantization.twin`) is made of them; `finalize` leaves none behind.

Reference:
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 3, https://arxiv.org/abs/1712.05877. Differs:
    weights are symmetric and per output channel, as in Krishnamoorthi 2018,
    https://arxiv.org/abs/1806.08342, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
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
# Part of a step: less than means of a few values have between them, more than rounding errors.
_LITTLE = 1e-3


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

    Several tensors may share the grid. Of each, the moving averages of the smallest and the
    largest value of every batch are kept, at first their plain means; the range holds all of them.
    Gradients pass where the input is inside the range.

    Called with `average=True`, it rounds means of values that are on the grid already. Many of
    them fall between two steps, and TFLite rounds those away from the int8 zero.

    Args:
        limits: The range, if it is known: then nothing is learned. The grid of one that `nudged`
            returned is the grid of the integer file.
        momentum: Part of the old range in the moving average, in [0, 1).
        tensors: How many share the grid.
    """

    def __init__(
        self,
        limits: tuple[float, float] | None = None,
        momentum: float = 0.99,
        tensors: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.limits, self.momentum, self.tensors = limits, momentum, tensors
        self.observing = False

    def build(self, input_shape: Any) -> None:
        if self.limits is None:
            zeros = {"shape": (self.tensors,), "initializer": "zeros", "trainable": False}
            self.low = self.add_weight(name="low", **zeros)
            self.high = self.add_weight(name="high", **zeros)
            self.batches = self.add_weight(name="batches", **zeros)

    def call(
        self, x: Tensor, number: int = 0, average: bool = False, training: bool = False
    ) -> Tensor:
        if self.limits is not None:
            low, high = self.limits
            x = _ties_broken(x, low, high) if average else x
            return tf.quantization.fake_quant_with_min_max_args(x, low, high)
        if training or self.observing:
            self._observe(ops.stop_gradient(x), number)
        low = ops.minimum(ops.min(self.low), 0.0)
        # A range of no width would make the op divide by zero.
        high = ops.maximum(ops.maximum(ops.max(self.high), 0.0), low + _NOTHING)
        x = _ties_broken(x, low, high) if average else x
        return tf.quantization.fake_quant_with_min_max_vars(x, low, high)

    def _observe(self, x: Tensor, number: int) -> None:
        this = np.arange(self.tensors) == number
        keep = ops.minimum(self.momentum, self.batches / (self.batches + 1))
        for average, value in ((self.low, ops.min(x)), (self.high, ops.max(x))):
            average.assign(ops.where(this, keep * average + (1 - keep) * value, average))
        self.batches.assign_add(this.astype(np.float32))

    def compute_output_spec(
        self, x: Tensor, number: int = 0, average: bool = False, training: bool = False
    ) -> Any:
        return keras.KerasTensor(x.shape, x.dtype)

    def learned(self) -> tuple[float, float]:
        """Returns the range, with zero on the grid."""
        if self.limits is not None:
            return self.limits
        return nudged(np.min(self.low), np.max(self.high))


def _ties_broken(x: Tensor, low: Any, high: Any) -> Tensor:
    """Moves what is between two steps a little down, where it is below the int8 zero."""
    scale = (high - low) / STEPS
    middle = (128 - ops.round(-low / scale)) * scale
    return ops.where(x < middle, x - _LITTLE * scale, x)


class _Weighted:
    """A kernel that is on the int8 grid while the layer computes; else it is the variable.

    Attributes:
        mask: Zeros where the kernel is to stay zero, or None.
        channels: Axes of the kernel that have a scale for each of their indices.
        frozen: Limits that were computed once, as converters need them, or None.
        plain: Whether the kernel is on the grid already, and read as it is.
    """

    channels: tuple[int, ...] = (-1,)
    frozen: np.ndarray | None = None
    plain = False
    mask: np.ndarray | None = None
    _kernel: Any
    _computing = False

    def call(self, inputs: Tensor) -> Tensor:
        self._computing = True
        try:
            return super().call(inputs)  # type: ignore[misc]
        finally:
            self._computing = False

    @property
    def kernel(self) -> Any:
        return self.rounded() if self._computing and not self.plain else self._kernel

    @kernel.setter
    def kernel(self, variable: Any) -> None:
        self._kernel = variable

    def rounded(self) -> Tensor:
        """Returns the kernel as it is used."""
        kernel = ops.convert_to_tensor(self._kernel)
        if self.mask is not None:
            kernel *= self.mask
        kernel = self._outputs_last(kernel)
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
        return self._outputs_last(ops.reshape(flat, shape))

    def _outputs_last(self, kernel: Tensor) -> Tensor:
        """Returns a kernel with its output channels last, and from such a one the kernel."""
        return kernel

    def _reduced(self, shape: Any) -> tuple[int, ...]:
        return tuple(range(len(shape) - len(self.channels)))

    def freeze(self, scale: float) -> None:
        """Computes the limits, from now on constants, and rounds the bias as int32 does.

        Args:
            scale: Of the input: a step of the bias is that times the scale of the weights. Wide
                steps would shift the outputs, and narrow ones overflow.
        """
        kernel = np.asarray(self._outputs_last(self._kernel))
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


class Conv2DTranspose(_Weighted, keras.layers.Conv2DTranspose):
    """Transposed convolution, its kernel on the int8 grid, a scale for each filter."""

    def _outputs_last(self, kernel: Tensor) -> Tensor:
        return ops.swapaxes(kernel, -1, -2)


class DepthwiseConv2D(_Weighted, keras.layers.DepthwiseConv2D):
    """Depthwise convolution, its kernel on the int8 grid, a scale for each output channel."""

    channels = (-2, -1)


class Dense(_Weighted, keras.layers.Dense):
    """Dense layer, its kernel on the int8 grid of one scale, as TFLite's is."""

    channels: tuple[int, ...] = ()


class DensePerChannel(Dense):
    """Dense layer that is to become a 1x1 convolution: a scale for each output."""

    channels = (-1,)


class Function(keras.layers.Layer):
    """One of `FUNCTIONS`, in the very operations that the TFLite converter knows as one."""

    def __init__(self, kind: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind

    def call(self, x: Tensor) -> Tensor:
        return FUNCTIONS[self.kind](x)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "hard_swish": lambda x: x * tf.nn.relu6(x + 3.0) * (1.0 / 6.0),
    # The two halves of a hard sigmoid.
    "shifted_relu6": lambda x: tf.nn.relu6(x + 3.0),
    "sixth": lambda x: x * (1.0 / 6.0),
}
