"""Classes that count for more than others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from cnnkit import checks
from cnnkit.losses.class_loss import distributions
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("loss")
class ClassWeighted(keras.losses.Loss):
    """Another loss, times the weight `Σ_c y_c w_c` of the label y.

    A mixed label has the mean weight of what was mixed, so that mixing leaves the mean weight as
    it is; what an example pulls the network towards is the other loss's affair.

    Args:
        weights: w, one number for each class that is not negative. See `class_weights`.
        loss: A loss of one-hot labels; None is the cross-entropy of logits.
        **kwargs: `name`, `reduction` and `dtype`, as every loss of Keras has them.

    Target shape:
        `y_true`: class numbers `(batch,)`, or distributions `(batch, classes)`. `y_pred`: what the
        other loss takes.

    Raises:
        TypeError: If `loss` is no loss.
        ValueError: If `weights` is no list of such numbers.

    Example:
        >>> float(ClassWeighted([0.5, 2.0])([1], [[0.0, 0.0]]))  # 2 log 2
        1.3862943649291992

    Reference:
        Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", eq. 4,
        https://arxiv.org/abs/1901.05555. Differs: labels may be soft.
    """

    def __init__(
        self, weights: Sequence[float], loss: keras.losses.Loss | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        array = np.asarray(weights, float)
        if array.ndim != 1 or len(array) < 2 or not (np.isfinite(array) & (array >= 0)).all():
            raise ValueError(
                "`weights` of ClassWeighted must be two or more finite numbers >= 0. "
                f"Received: weights={weights}"
            )
        if loss is not None and not isinstance(loss, keras.losses.Loss):
            raise TypeError(f"`loss` of ClassWeighted must be a loss. Received: loss={loss!r}")
        self.weights = array.tolist()
        self.loss = loss or keras.losses.CategoricalCrossentropy(from_logits=True)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_pred = ops.convert_to_tensor(y_pred)
        labels = distributions(y_true, y_pred)
        weights = ops.convert_to_tensor(self.weights, dtype=y_pred.dtype)
        return ops.matmul(labels, weights) * self.loss.call(labels, y_pred)

    def get_config(self) -> dict[str, Any]:
        loss = keras.saving.serialize_keras_object(self.loss)
        return {**super().get_config(), "weights": self.weights, "loss": loss}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ClassWeighted:
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


def class_weights(counts: Sequence[int], beta: float = 1.0) -> list[float]:
    """Returns weights of classes that are the larger, the rarer a class; 1 on the average picture.

    A class of n examples has the weight `(1 - beta) / (1 - beta^n)`, the inverse of its effective
    number; with `beta` 1 that is `1 / n`. All are then divided by their mean over the examples.

    Args:
        counts: Examples of each class, positive.
        beta: In [0, 1]: the smaller, the sooner more examples of a class tell nothing new.

    Raises:
        ValueError: If there are less than two classes, one has no example, or `beta` is wrong.

    Example:
        >>> class_weights([3, 1])
        [0.6666666666666666, 2.0]

    Reference:
        Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", eq. 2-3,
        https://arxiv.org/abs/1901.05555. Differs: the mean over the examples is 1, not that over
        the classes, so that the learning rate keeps its meaning.
    """
    beta = checks.in_range("class_weights", "beta", beta, 0.0, 1.0)
    n = np.asarray(counts, float)
    if n.ndim != 1 or len(n) < 2 or not (np.isfinite(n) & (n > 0)).all():
        raise ValueError(
            "`counts` of class_weights must be two or more positive numbers. "
            f"Received: counts={counts}"
        )
    weights = 1 / n if beta == 1 else (1 - beta) / (1 - beta**n)
    return (weights * n.sum() / (weights * n).sum()).tolist()
