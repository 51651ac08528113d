"""Layers whose weights, and whose inputs if wanted, are +1 or -1."""

import math
from typing import Any

import keras
from keras import initializers
from keras import ops

from cnnkit import checks
from cnnkit.constraints import Clip
from cnnkit.layers.computed_kernel import ComputedConv2D
from cnnkit.layers.computed_kernel import ComputedDense
from cnnkit.layers.computed_kernel import ComputedKernel
from cnnkit.registry import register
from cnnkit.types import Tensor

# Method -> whether the inputs are binary too, whether filters are scaled, and inputs.
METHODS = {
    "binary-connect": (False, False, False),
    "stochastic": (False, False, False),
    "bnn": (True, False, False),
    "bwn": (False, True, False),
    "xnor": (True, True, True),
}


@ops.custom_gradient
def straight_through(x: Tensor, threshold: Tensor) -> Any:
    """Returns +1 where `x >= threshold`, else -1, with the gradient of `clip(x, -1, 1)`.

    Reference:
        Hubara et al. 2016, "Binarized Neural Networks", eq. 1 and 4,
        https://arxiv.org/abs/1602.02830. Differs: nothing; sign(0) is +1.
    """

    def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
        passed = ops.where(ops.abs(x) <= 1, upstream, ops.zeros_like(upstream))
        return passed, ops.zeros_like(threshold)

    # Not of scalars, to which the TFLite converter gives a zero point that LiteRT refuses.
    return ops.where(x >= threshold, ops.ones_like(x), -ops.ones_like(x)), gradient


def filter_scales(w: Tensor) -> Tensor:
    """Returns `alpha`, the mean of abs(W) of each output.

    Of weights that have one magnitude it is exactly that one, however sums are rounded: so a
    kernel made of signs and scales has these scales.
    """
    axes, sizes = tuple(range(len(w.shape) - 1)), ops.abs(w)
    largest = ops.stop_gradient(ops.max(sizes, axes))
    largest = ops.where(largest > 0, largest, ops.ones_like(largest))
    return largest * ops.mean(sizes / largest, axes)


class _Binary(ComputedKernel):
    """What both layers share; comes before the base that says what the product is."""

    def _binarize_by(self, method: str, kernel_initializer: Any, seed: int | None) -> None:
        self.method = checks.one_of(type(self).__name__, "method", method, METHODS)
        self.signs_inputs, self.scales_filters, self.scales_inputs = METHODS[method]
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.seed = seed
        if method == "stochastic":
            self.draws = keras.random.SeedGenerator(seed)

    def build_kernel(self, shape: tuple[int, ...]) -> None:
        self.real_kernel = self.add_weight(
            shape=shape, initializer=self.kernel_initializer, constraint=Clip(), name="kernel"
        )

    def kernel(self, training: bool) -> Tensor:
        # A tensor, not the variable itself, which TensorFlow's custom gradients would look for.
        w = ops.cast(self.real_kernel, self.compute_dtype)
        threshold = ops.zeros((), w.dtype)
        if training and self.method == "stochastic":
            # P(w >= uniform in [-1, 1)) is the hard sigmoid (w + 1) / 2.
            threshold = keras.random.uniform(w.shape, -1, 1, dtype=w.dtype, seed=self.draws)
        binary = straight_through(w, threshold)
        return binary * filter_scales(w) if self.scales_filters else binary

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        x = inputs
        if self.signs_inputs:
            x = straight_through(x, ops.zeros((), x.dtype))
        y = self.product(x, self.kernel(training))
        if self.scales_inputs:
            y *= self.input_scale(ops.mean(ops.abs(inputs), axis=-1, keepdims=True))
        return y if self.bias is None else y + self.bias

    def input_scale(self, magnitudes: Tensor) -> Tensor:
        """Returns `K` of XNOR-Net, given the mean magnitude of the channels at each place."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "method": self.method,
            "seed": self.seed,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
        }


@register("layer")
class BinaryDense(_Binary, ComputedDense):
    """A dense layer with weights `B = sign(W)`, +1 or -1, behind which are real ones that learn.

    | `method` | gives |
    |---|---|
    | `binary-connect` | `x B` |
    | `stochastic` | in training, `b = +1` with probability `clip((w + 1) / 2, 0, 1)`; then `x B` |
    | `bnn` | `sign(x) B` |
    | `bwn` | `x B alpha`, where `alpha` is the mean of abs(W) of each output |
    | `xnor` | `sign(x) B alpha K`, where `K` is the mean of abs(x) |

    `sign(0) = +1`. The gradient of a sign is that of `clip(·, -1, 1)`: straight through where
    its argument is in [-1, 1], else zero; W is kept there by the constraint `Clip`. The gradient
    of `alpha` and `K` is theirs. Saved models keep W, to train on; exported files hold `B alpha`
    as ordinary numbers, since no runtime here has kernels for bits.

    Int8 keeps `B alpha` exactly, so that `bwn` loses no more there than real weights do; of `bnn`
    and `xnor`, inputs within half a step of zero may get the other sign.

    Args:
        units: Number of outputs.
        method: One of the table.
        use_bias: Whether a real bias is added; off where batch normalization follows, as usual.
        kernel_initializer: Of W.
        seed: Of the draws of `stochastic`; None is the global one.

    Input shape:
        `(batch, …, inputs)`, float. Of `bnn` and `xnor`, about half negative: put a batch
        normalization before.

    Output shape:
        `(batch, …, units)`.

    Raises:
        ValueError: If an argument is not one of these.

    Example:
        >>> layer = BinaryDense(1, "bwn", kernel_initializer="ones")
        >>> layer(keras.ops.array([[1.0, 2.0]])).numpy().tolist()
        [[3.0]]

    Reference:
        Courbariaux et al. 2015, "BinaryConnect", eq. 1 to 3, https://arxiv.org/abs/1511.00363;
        Hubara et al. 2016, "Binarized Neural Networks", https://arxiv.org/abs/1602.02830;
        Rastegari et al. 2016, "XNOR-Net", eq. 6 and 11, https://arxiv.org/abs/1603.05279. Differs:
        `stochastic` is binary in inference, where BinaryConnect takes W; the gradient through
        alpha is exact, where XNOR-Net keeps of its sum over a filter the weight's own term.
    """

    def __init__(
        self,
        units: int,
        method: str = "bwn",
        use_bias: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, use_bias, **kwargs)
        self._binarize_by(method, kernel_initializer, seed)

    def input_scale(self, magnitudes: Tensor) -> Tensor:
        return magnitudes


@register("layer")
class BinaryConv2D(_Binary, ComputedConv2D):
    """A convolution with weights `B = sign(W)`, +1 or -1, behind which are real ones that learn.

    As `BinaryDense`; `alpha` is of each filter, and `K` at each place the mean of abs(x) over the
    window and all channels. What "same" pads is zero, neither +1 nor -1.

    Args:
        filters: Number of outputs.
        kernel_size: Side of the square filters.
        method: As of `BinaryDense`.
        strides: Step of the filters, at least 1.
        padding: "same" or "valid".
        use_bias: Whether a real bias is added; off where batch normalization follows, as usual.
        seed: Of the draws of `stochastic`; None is the global one.

    Input shape:
        `(batch, height, width, channels)`, float.

    Output shape:
        `(batch, height, width, filters)`, with "same" and a step of 1.

    Raises:
        ValueError: If an argument is not one of these.

    Example:
        >>> BinaryConv2D(8, method="xnor")(keras.ops.ones((1, 8, 8, 4))).shape
        TensorShape([1, 8, 8, 8])

    Reference:
        Rastegari et al. 2016, "XNOR-Net", section 3.2 and figure 2,
        https://arxiv.org/abs/1603.05279. Differs: as `BinaryDense`.
    """

    def __init__(  # noqa: PLR0913
        self,
        filters: int,
        kernel_size: int = 3,
        method: str = "bwn",
        strides: int = 1,
        padding: str = "same",
        use_bias: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, strides, padding, use_bias, **kwargs)
        self._binarize_by(method, kernel_initializer, seed)

    def input_scale(self, magnitudes: Tensor) -> Tensor:
        shape = (self.kernel_size, self.kernel_size, 1, 1)
        box = ops.full(shape, 1 / math.prod(shape), magnitudes.dtype)
        return self.product(magnitudes, box)
