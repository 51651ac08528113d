"""Features of one length, for the last layer before the loss."""

from typing import Any

import keras
from keras import ops

from cnnkit import checks
from cnnkit.layers.pooling import single_precision
from cnnkit.registry import register
from cnnkit.types import Shape
from cnnkit.types import Tensor

# Of the sum of squares: keeps vectors of zeros what they are.
_SMALLEST = 1e-12


@register("layer")
class FeatureNormalization(keras.layers.Layer):
    """Gives every feature vector the same length: `s x / ‖x‖₂`, over the last axis.

    Same in training and inference; a vector of zeros stays one.

    Args:
        scale: The length `s`, positive. Where a softmax over many classes follows, 1 is too
            short to reach a small loss; NormFace learns a length, L2-softmax takes 10 to 50.
        learned: Whether the length is a weight that starts at `scale`.

    Input shape:
        `(batch, …, features)`, float.

    Output shape:
        Same as input.

    Raises:
        ValueError: If `scale` is not positive.

    Example:
        >>> y = FeatureNormalization(5.0)(keras.ops.array([[0.3, 0.4]]))
        >>> keras.ops.convert_to_numpy(y).round(4).tolist()
        [[3.0, 4.0]]

    Reference:
        Wang et al. 2017, "NormFace: L2 Hypersphere Embedding for Face Verification", eq. 2 and
        section 3.3, https://arxiv.org/abs/1704.06369; Ranjan et al. 2017, "L2-constrained Softmax
        Loss for Discriminative Face Verification", https://arxiv.org/abs/1703.09507. Differs: the
        feature normalization of DeepVisage, https://arxiv.org/abs/1703.08388, is statistics of the
        batch without scale and offset: `BatchNormalization(center=False, scale=False)` of Keras.
    """

    def __init__(self, scale: float = 1.0, learned: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = checks.in_range(
            "FeatureNormalization", "scale", scale, 0.0, float("inf"), closed="neither"
        )
        self.learned = bool(learned)

    def build(self, input_shape: Shape) -> None:
        self.length = None
        if self.learned:
            start = keras.initializers.Constant(self.scale)
            self.length = self.add_weight(shape=(), initializer=start, name="length")

    def call(self, inputs: Tensor) -> Tensor:
        x = single_precision(inputs)
        squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
        y = x * ops.rsqrt(ops.maximum(squares, _SMALLEST))
        if self.length is not None:
            y = y * ops.cast(self.length, y.dtype)
        elif self.scale != 1:
            y = y * self.scale
        return ops.cast(y, inputs.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "learned": self.learned}
