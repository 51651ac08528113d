"""Dense layers and convolutions whose kernel is computed from fewer or other weights."""

from typing import Any

import keras
from keras import ops

from cnnkit import checks
from cnnkit.types import Shape
from cnnkit.types import Tensor


class ComputedKernel(keras.layers.Layer):
    """Gives `x * kernel + bias`, where subclasses say what the product is, and the kernel."""

    def __init__(self, outputs: int, use_bias: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.outputs = outputs
        self.use_bias = bool(use_bias)

    def build(self, input_shape: Shape) -> None:
        channels = checks.known_channels(type(self).__name__, input_shape)
        self.build_kernel(self.kernel_shape(channels))
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.outputs,), initializer="zeros", name="bias")
        super().build(input_shape)

    def kernel_shape(self, channels: int) -> tuple[int, ...]:
        """Returns the shape of the whole kernel for inputs of so many channels."""
        raise NotImplementedError

    def build_kernel(self, shape: tuple[int, ...]) -> None:
        """Makes the weights that the kernel is computed from."""
        raise NotImplementedError

    def kernel(self, training: bool) -> Tensor:
        """Returns the whole kernel."""
        raise NotImplementedError

    def product(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Returns what the layer gives without its bias."""
        raise NotImplementedError

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        y = self.product(inputs, self.kernel(training))
        return y if self.bias is None else y + self.bias

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "use_bias": self.use_bias}


class ComputedDense(ComputedKernel):
    """A dense layer with a computed kernel `(inputs, units)`."""

    def __init__(self, units: int, use_bias: bool, **kwargs: Any) -> None:
        self_name = type(self).__name__
        super().__init__(checks.integer(self_name, "units", units, 1), use_bias, **kwargs)

    def kernel_shape(self, channels: int) -> tuple[int, ...]:
        return (channels, self.outputs)

    def product(self, x: Tensor, kernel: Tensor) -> Tensor:
        return ops.matmul(x, kernel)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.outputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.outputs}


class ComputedConv2D(ComputedKernel):
    """A convolution with a computed kernel `(side, side, channels, filters)`."""

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int,
        padding: str,
        use_bias: bool,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        super().__init__(checks.integer(name, "filters", filters, 1), use_bias, **kwargs)
        self.kernel_size = checks.integer(name, "kernel_size", kernel_size, 1)
        self.strides = checks.integer(name, "strides", strides, 1)
        self.padding = checks.one_of(name, "padding", padding, ("valid", "same"))

    def kernel_shape(self, channels: int) -> tuple[int, ...]:
        return (self.kernel_size, self.kernel_size, channels, self.outputs)

    def product(self, x: Tensor, kernel: Tensor) -> Tensor:
        return ops.conv(x, kernel, self.strides, self.padding, "channels_last")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        lost = self.kernel_size - 1 if self.padding == "valid" else 0
        sides = [
            None if side is None else -(-(side - lost) // self.strides) for side in input_shape[1:3]
        ]
        return (input_shape[0], *sides, self.outputs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.outputs,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
        }
