"""Normalization over neighbouring channels, of AlexNet."""

from typing import Any

import keras
import numpy as np
from keras import ops

from cnnkit import checks
from cnnkit.layers.pooling import single_precision
from cnnkit.registry import register
from cnnkit.types import Shape
from cnnkit.types import Tensor


@register("layer")
class LocalResponseNormalization(keras.layers.Layer):
    """Divides each value by what the `n` channels around it have at its place.

    `b_d = a_d / (k + alpha * Σ_t a_t²)^beta`, the sum over the channels from `d - n // 2` to
    `d + n // 2` that exist; `alpha` is not divided by `n`. Same in training and inference. With
    `k = 0`, `alpha = 1`, `beta = 0.5` and `n` at least twice the channels, it is l2 normalization
    across channels.

    Args:
        k: Added to the sum, in [0, inf). With 0, places where all of the sum is zero give NaN.
        n: Channels in the sum, an odd integer of at least 1.
        alpha: Weight of the sum, in [0, inf).
        beta: Exponent, in [0, inf).

    Input shape:
        `(batch, …, channels)`, float.

    Output shape:
        Same as input.

    Raises:
        ValueError: If an argument is outside its interval.

    Example:
        >>> layer = LocalResponseNormalization(k=1.0, n=3, alpha=1.0, beta=1.0)
        >>> keras.ops.convert_to_numpy(layer(keras.ops.array([[1.0, 2.0, 2.0]]))).tolist()
        [[0.1666666716337204, 0.20000000298023224, 0.2222222238779068]]

    Reference:
        Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural
        Networks", section 3.3,
        https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks.
        Differs: nothing; Caffe and ONNX divide alpha by `n`, so theirs is `n` times as large.
    """

    def __init__(
        self,
        k: float = 2.0,
        n: int = 5,
        alpha: float = 1e-4,
        beta: float = 0.75,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in {"k": k, "alpha": alpha, "beta": beta}.items():
            number = checks.in_range(
                type(self).__name__, name, value, 0.0, float("inf"), closed="left"
            )
            setattr(self, name, number)
        self.n = checks.integer(type(self).__name__, "n", n, 1)
        if n % 2 == 0:
            raise ValueError(f"`n` of LocalResponseNormalization must be odd. Received: n={n}")

    def call(self, inputs: Tensor) -> Tensor:
        x = single_precision(inputs)
        radius = self.n // 2
        dtype = keras.backend.standardize_dtype(x.dtype)
        if (keras.backend.backend(), len(x.shape), dtype) == ("tensorflow", 4, "float32"):
            # Only TensorFlow's own operation becomes the one operation of TFLite and ONNX.
            import tensorflow as tf

            y = tf.nn.local_response_normalization(x, radius, self.k, self.alpha, self.beta)
        else:
            place = np.arange(x.shape[-1])
            near = ops.cast(np.abs(place[:, None] - place) <= radius, x.dtype)
            sums = ops.matmul(ops.square(x), near)
            y = x * ops.power(self.k + self.alpha * sums, -self.beta)
        return ops.cast(y, inputs.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        config = {"k": self.k, "n": self.n, "alpha": self.alpha, "beta": self.beta}
        return {**super().get_config(), **config}
