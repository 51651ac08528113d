"""The ReLU whose negative slope is random in training."""

from typing import Any

import keras
from keras import ops

from cnnkit import checks
from cnnkit.registry import register
from cnnkit.types import Shape
from cnnkit.types import Tensor


@register("layer")
class RReLU(keras.layers.Layer):
    """Gives `x` where it is positive and `slope * x` elsewhere.

    In training `slope ~ U(lower, upper)`, drawn for each value; in inference it is the mean
    `(lower + upper) / 2`, which makes a leaky ReLU.

    Args:
        lower: Smallest slope, in [0, 1]. The default is that of the winner of the National Data
            Science Bowl 2015.
        upper: Largest slope, in [lower, 1]. The default likewise.
        seed: Of the draws in training, an integer or None.

    Input shape:
        Any, float.

    Output shape:
        Same as input.

    Raises:
        ValueError: If a slope is outside its interval.

    Example:
        >>> float(RReLU(0.25, 0.75)(keras.ops.array([-2.0]))[0])
        -1.0

    Reference:
        Xu et al. 2015, "Empirical Evaluation of Rectified Activations in Convolutional Network",
        section 2.4, https://arxiv.org/abs/1505.00853. Differs: the paper divides by `a ~ U(3, 8)`,
        and in inference by the mean of `a`, 5.5; here the slope itself is uniform, from 1/8 to 1/3.
    """

    def __init__(
        self,
        lower: float = 1 / 8,
        upper: float = 1 / 3,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.lower = checks.in_range("RReLU", "lower", lower, 0.0, 1.0)
        self.upper = checks.in_range("RReLU", "upper", upper, self.lower, 1.0)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training:
            return ops.leaky_relu(inputs, (self.lower + self.upper) / 2)
        slope = keras.random.uniform(
            ops.shape(inputs), self.lower, self.upper, inputs.dtype, self.seed_generator
        )
        return ops.where(inputs > 0, inputs, slope * inputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        config = {"lower": self.lower, "upper": self.upper, "seed": self.seed}
        return {**super().get_config(), **config}
