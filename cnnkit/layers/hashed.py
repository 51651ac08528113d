"""Layers in which a hash of its place says which of a few weights a weight is."""

import math
from typing import Any

import numpy as np
from keras import initializers
from keras import ops

from cnnkit import checks
from cnnkit.layers.computed_kernel import ComputedConv2D
from cnnkit.layers.computed_kernel import ComputedDense
from cnnkit.layers.computed_kernel import ComputedKernel
from cnnkit.registry import register
from cnnkit.types import Tensor


def hashes(count: int, seed: int) -> np.ndarray:
    """Returns a 64-bit hash of each of `0 … count - 1`: of splitmix64, from a start of its own.

    The same on every machine and in every process, unlike Python's `hash`.

    Reference:
        Steele et al. 2014, "Fast splittable pseudorandom number generators", figure 16. Differs:
        constants are those of Stafford's variant 13, as in Java's and everyone's splitmix64.
    """
    start = (seed + 1) * 0x9E3779B97F4A7C15 % 2**64
    z = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return z ^ (z >> np.uint64(31))


class _Hashed(ComputedKernel):
    """What both layers share; comes before the base that says what the product is."""

    def _hash_with(self, ratio: float, seed: int, kernel_initializer: Any) -> None:
        name = type(self).__name__
        self.ratio = checks.in_range(name, "ratio", ratio, 0.0, 1.0, closed="right")
        self.seed = checks.integer(name, "seed", seed, 0)
        self.kernel_initializer = initializers.get(kernel_initializer)

    def build_kernel(self, shape: tuple[int, ...]) -> None:
        self.whole_shape = shape
        size = math.prod(shape)
        count = max(1, round(self.ratio * size))
        self.codebook = self.add_weight(
            shape=(count,),
            # As many weights as there are of a kernel of the whole shape: of its variance.
            initializer=lambda _, dtype: ops.reshape(
                self.kernel_initializer(shape, dtype=dtype), (-1,)
            )[:count],
            name="codebook",
        )
        hashed = hashes(size, self.seed)
        negative = hashed & np.uint64(1)
        bucket = (hashed >> np.uint64(1)) % np.uint64(count)
        # Of the codebook and its negative, one after the other: one look-up gives sign and value.
        self.places = (bucket + negative * np.uint64(count)).astype(np.int32)

    def kernel(self, training: bool) -> Tensor:
        signed = ops.concatenate([self.codebook, -self.codebook])
        return ops.reshape(ops.take(signed, self.places), self.whole_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "ratio": self.ratio,
            "seed": self.seed,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
        }


@register("layer")
class HashedDense(_Hashed, ComputedDense):
    """A dense layer of few weights, each of which stands at many places.

    `W_ij = xi(i, j) c[h(i, j)]`, where the hashes `h` and `xi` of the place give one of the `ratio`
    times `inputs * units` weights `c`, and a sign. The gradient of a weight is the sum of those of
    its places. Same in training and inference.

    Saved models hold `c` alone. The converters to TFLite and ONNX do the look-up once and for all:
    their files hold `W`, and are as large and as fast as those of a dense layer.

    Args:
        units: Number of outputs.
        ratio: Weights, as a fraction of those of a dense layer, in (0, 1]; at least one is left.
        use_bias: Whether a bias is added, which is not hashed.
        seed: Of the hash, 0 or more. Layers of one shape and seed share alike.
        kernel_initializer: As for a dense layer; its variance is of the whole `W`.

    Input shape:
        `(batch, …, inputs)`, float.

    Output shape:
        `(batch, …, units)`.

    Raises:
        ValueError: If an argument is outside its interval.

    Example:
        >>> layer = HashedDense(10, ratio=0.125)
        >>> layer(keras.ops.ones((1, 64))).shape, layer.count_params()
        (TensorShape([1, 10]), 90)

    Reference:
        Chen et al. 2015, "Compressing Neural Networks with the Hashing Trick", eq. 3 to 12,
        https://arxiv.org/abs/1504.04788. Differs: the hash is splitmix64, the paper's xxHash;
        the bias is not hashed.
    """

    def __init__(
        self,
        units: int,
        ratio: float = 0.125,
        use_bias: bool = True,
        seed: int = 0,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, use_bias, **kwargs)
        self._hash_with(ratio, seed, kernel_initializer)


@register("layer")
class HashedConv2D(_Hashed, ComputedConv2D):
    """A convolution of few weights, each of which stands at many places of its filters.

    As `HashedDense`, with the hash of the place in the kernel `(side, side, channels, filters)`.

    Args:
        filters: Number of outputs.
        kernel_size: Side of the square filters.
        ratio: Weights, as a fraction of those of a convolution, in (0, 1]; at least one is left.
        strides: Step of the filters, at least 1.
        padding: "same" or "valid".
        use_bias: Whether a bias is added, which is not hashed.
        seed: Of the hash, 0 or more.

    Input shape:
        `(batch, height, width, channels)`, float.

    Output shape:
        `(batch, height, width, filters)`, with "same" and a step of 1.

    Raises:
        ValueError: If an argument is outside its interval.

    Example:
        >>> layer = HashedConv2D(8, 3, ratio=0.25)
        >>> layer(keras.ops.ones((1, 8, 8, 4))).shape, layer.count_params()
        (TensorShape([1, 8, 8, 8]), 80)

    Reference:
        Chen et al. 2015, "Compressing Neural Networks with the Hashing Trick",
        https://arxiv.org/abs/1504.04788. Differs: the paper's is for dense layers; in the same
        authors' "Compressing Convolutional Neural Networks in the Frequency Domain",
        https://arxiv.org/abs/1506.04449, this is the form that theirs is compared with. Weights
        start as those of Glorot and Bengio do.
    """

    def __init__(  # noqa: PLR0913
        self,
        filters: int,
        kernel_size: int = 3,
        ratio: float = 0.125,
        strides: int = 1,
        padding: str = "same",
        use_bias: bool = True,
        seed: int = 0,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, strides, padding, use_bias, **kwargs)
        self._hash_with(ratio, seed, kernel_initializer)
