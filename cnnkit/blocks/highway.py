"""Highway convolution: a gate chooses between a convolution and its input."""

import keras
from keras import layers

from cnnkit import checks
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("block")
def highway_conv(x: Tensor, size: int = 3, gate_bias: float = -2.0, *, name: str) -> Tensor:
    """Returns `F(x) · T(x) + x · (1 - T(x))`, computed as `x + T(x) · (F(x) - x)`.

    F is a convolution with ReLU, T one with sigmoid, both with as many filters as x has channels.
    T = 0 gives x, T = 1 gives F(x).

    Args:
        x: Pictures `(batch, height, width, channels)`.
        size: Height and width of both kernels, at least 1.
        gate_bias: Of T before training, in [-10, 0]; the paper's are -1 to -3, the lower the
            deeper, so that a fresh network passes its input on.
        name: Beginning of the names of the layers.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is outside its interval.

    Reference:
        Srivastava et al. 2015, "Training Very Deep Networks", eq. 3-4 and section 2.1,
        https://arxiv.org/abs/1507.06228. Differs: nothing.
    """
    checks.integer("highway_conv", "size", size, 1)
    bias = checks.in_range("highway_conv", "gate_bias", gate_bias, -10.0, 0.0)
    channels = x.shape[-1]
    transform = layers.Conv2D(
        channels,
        size,
        padding="same",
        activation="relu",
        kernel_initializer="he_normal",
        name=f"{name}_transform",
    )(x)
    gate = layers.Conv2D(
        channels,
        size,
        padding="same",
        activation="sigmoid",
        bias_initializer=keras.initializers.Constant(bias),
        name=f"{name}_gate",
    )(x)
    change = layers.Subtract(name=f"{name}_difference")([transform, x])
    change = layers.Multiply(name=f"{name}_gated")([gate, change])
    return layers.Add(name=f"{name}_add")([x, change])
