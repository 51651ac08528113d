"""What losses of classifiers have in common: any kind of label is an expectation over classes."""

from typing import Any

import keras
from keras import ops

from cnnkit import checks
from cnnkit.types import Tensor


class ClassLoss(keras.losses.Loss):
    """Base of losses that are `Σ_c p_c loss_c`: the expectation of a loss over the label's classes.

    A subclass gives `loss_c`, the loss if the class is `c`, in `per_class`.

    Args:
        label_smoothing: Part of each label that is spread over all classes, in [0, 1).
        **kwargs: `name`, `reduction` and `dtype`, as every loss of Keras has them.

    Target shape:
        `y_true`: class numbers `(batch,)` or `(batch, 1)`, or a distribution over the classes
        `(batch, classes)`, such as one-hot. A number that is no class has no loss.

    Raises:
        ValueError: If `label_smoothing` is outside its interval.
    """

    def __init__(self, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label_smoothing = checks.in_range(
            type(self).__name__, "label_smoothing", label_smoothing, 0.0, 1.0, closed="left"
        )

    def per_class(self, y_pred: Tensor) -> Tensor:
        """Returns the loss of each class if it were the true one, `(batch, classes)`."""
        raise NotImplementedError

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        losses = self.per_class(ops.convert_to_tensor(y_pred))
        return ops.sum(self.labels(y_true, losses) * losses, -1)

    def labels(self, y_true: Tensor, like: Tensor) -> Tensor:
        """Returns `y_true` as distributions of the shape of `like`, smoothed."""
        classes = like.shape[-1]
        labels = distributions(y_true, like)
        if self.label_smoothing:
            labels = (1 - self.label_smoothing) * labels + self.label_smoothing / classes
        return labels

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def distributions(y_true: Tensor, like: Tensor) -> Tensor:
    """Returns labels as distributions over classes, one-hot where they are class numbers.

    Args:
        y_true: As a `ClassLoss` takes it.
        like: Tensor of the shape and the type that is wanted.
    """
    y_true, classes = ops.convert_to_tensor(y_true), like.shape[-1]
    if len(y_true.shape) == len(like.shape) and y_true.shape[-1] == classes:
        return ops.cast(y_true, like.dtype)
    if len(y_true.shape) == len(like.shape):
        y_true = ops.squeeze(y_true, -1)
    return ops.one_hot(ops.cast(y_true, "int32"), classes, dtype=like.dtype)
