"""A dense layer whose matrix is a short sum of products of circulant matrices."""

import math
from typing import Any

import keras
from keras import initializers
from keras import ops

from cnnkit import checks
from cnnkit.registry import register
from cnnkit.types import Shape
from cnnkit.types import Tensor


@register("layer")
class ToeplitzDense(keras.layers.Layer):
    """A dense layer with a Toeplitz-like matrix, of 2 `rank` max(inputs, units) weights.

    `W = Σ_k Z_1(g_k) Z_-1(h_k)`, where `Z_f(v)` is the f-circulant matrix with the first column
    `v`: below its diagonal the columns are shifted copies of `v`, above it `f` times these. Of
    such matrices the displacement `Z_1 W - W Z_-1` has at most the rank `rank`. All Toeplitz
    matrices and their inverses have rank 2, products of two have 4. Where inputs and units
    differ, W is a corner of the square matrix of the larger of the two.

    The two products are two convolutions of as many channels as there are terms, over the
    values around the circle: `2 rank n²` MACs, where a dense layer has n², for a file of
    `2 rank n` numbers. Same in training and inference.

    Args:
        units: Number of outputs.
        rank: Terms of the sum, at least 1; the paper's networks have 1 to 10.
        use_bias: Whether a bias is added.

    Input shape:
        `(batch, inputs)`, float.

    Output shape:
        `(batch, units)`.

    Raises:
        ValueError: If an argument is outside its interval, or the inputs have more axes.

    Example:
        >>> layer = ToeplitzDense(100, rank=2, use_bias=False)
        >>> layer(keras.ops.ones((1, 100))).shape, layer.count_params()
        (TensorShape([1, 100]), 400)

    Reference:
        Sindhwani et al. 2015, "Structured Transforms for Small-Footprint Deep Learning",
        theorem 3.1 and section 4, https://arxiv.org/abs/1510.01722. Differs: multiplies by
        convolutions instead of Fourier transforms, which phones' runtimes lack and which round
        more; the factor 1/2 is part of the weights.
    """

    def __init__(self, units: int, rank: int = 2, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = checks.integer("ToeplitzDense", "units", units, 1)
        self.rank = checks.integer("ToeplitzDense", "rank", rank, 1)
        self.use_bias = bool(use_bias)

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) != 2:
            raise ValueError(
                f"ToeplitzDense needs inputs of two axes. Received: input_shape={input_shape}"
            )
        inputs = checks.known_channels("ToeplitzDense", input_shape)
        size = max(inputs, self.units)
        self.padded = size - inputs
        # Kernels of convolutions, in which the vectors stand upside down.
        self.h = self.add_weight(
            shape=(size, 1, self.rank),
            initializer=initializers.RandomNormal(stddev=math.sqrt(1 / size)),
            name="h",
        )
        # Makes the variance of W that of Glorot and Bengio: `rank * size` terms each.
        stddev = math.sqrt(2 / (inputs + self.units) / self.rank)
        self.g = self.add_weight(
            shape=(size, self.rank, 1),
            initializer=initializers.RandomNormal(stddev=stddev),
            name="g",
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")
        super().build(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        x = ops.expand_dims(inputs, -1)
        if self.padded:
            x = ops.pad(x, [[0, 0], [0, self.padded], [0, 0]])
        x = _circulant(-1, self.h, x)  # (batch, size, rank)
        y = ops.squeeze(_circulant(1, self.g, x), -1)[:, : self.units]
        return y if self.bias is None else y + self.bias

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.units)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "rank": self.rank,
            "use_bias": self.use_bias,
        }


def _circulant(f: int, vectors: Tensor, x: Tensor) -> Tensor:
    """Returns `Σ Z_f(v) x` over the channels of `x` for each output of `vectors`."""
    around = ops.concatenate([f * x[:, 1:], x], axis=1)  # (batch, 2 size - 1, channels)
    return ops.conv(around, ops.convert_to_tensor(vectors), 1, "valid", "channels_last")
