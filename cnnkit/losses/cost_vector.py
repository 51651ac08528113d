"""What each mistake costs, by example."""

from typing import Any

import keras
from keras import ops

from cnnkit.registry import register
from cnnkit.types import Tensor


@register("loss")
class CostVector(keras.losses.Loss):
    """The expected cost `Σ_k c_k p_k` of an answer that is drawn from the prediction `p`.

    Each example brings its own costs, in the place of its label.

    Args:
        from_logits: False if predictions are probabilities.
        **kwargs: `name`, `reduction` and `dtype`, as every loss of Keras has them.

    Target shape:
        `y_true`: costs `(batch, classes)`, not negative and 0 for the true class. `y_pred`: logits
        or probabilities `(batch, classes)`.

    Example:
        >>> float(CostVector(from_logits=False)([[0.0, 3.0]], [[0.5, 0.5]]))
        1.5

    Reference:
        Abe, Zadrozny, Langford 2004, "An Iterative Method for Multi-class Cost-sensitive
        Learning", section 2.1, https://doi.org/10.1145/1014052.1014056. Differs: nothing.
    """

    def __init__(self, from_logits: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.from_logits = from_logits

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        probabilities = ops.softmax(y_pred) if self.from_logits else ops.convert_to_tensor(y_pred)
        return ops.sum(ops.convert_to_tensor(y_true) * probabilities, -1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits}
