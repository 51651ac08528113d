"""Distances of features to the centres of their classes."""

from typing import Any

import keras
from keras import ops

from cnnkit import checks
from cnnkit.losses.class_loss import distributions
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("loss")
class CenterLoss(keras.losses.Loss):
    """Half the squared distance of each example's features to the centre of its class.

    `½ ‖x - c_y‖²`, to be added with a weight λ to a loss that keeps the classes apart. Centres
    are not moved by the gradient but by `update`, once for each batch:
    `c_j ← c_j - rate · Σ_i δ(y_i = j) (c_j - x_i) / (1 + Σ_i δ(y_i = j))`.

    Args:
        classes: Number of classes, at least 2.
        features: Length of `x`, at least 1.
        rate: In [0, 1]; the paper has 0.5.
        **kwargs: `name`, `reduction` and `dtype`, as every loss of Keras has them.

    Target shape:
        `y_true`: class numbers `(batch,)`, or distributions `(batch, classes)`, whose loss is the
        expectation, and whose probabilities take the place of δ. `y_pred`: features
        `(batch, features)`.

    Raises:
        TypeError: If a number is no integer.
        ValueError: If an argument is outside its interval.

    Reference:
        Wen et al. 2016, "A Discriminative Feature Learning Approach for Deep Face Recognition",
        eq. 2 to 5, https://doi.org/10.1007/978-3-319-46478-7_31. Differs: the batch is averaged,
        as in the authors' code, where the paper sums it. Centres start at zero.
    """

    def __init__(self, classes: int, features: int, rate: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = checks.integer("CenterLoss", "classes", classes, 2)
        self.features = checks.integer("CenterLoss", "features", features, 1)
        self.rate = checks.in_range("CenterLoss", "rate", rate, 0.0, 1.0)
        self.centers = keras.Variable(
            ops.zeros((classes, features), self.dtype), trainable=False, name="centers"
        )

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        centers = ops.stop_gradient(ops.convert_to_tensor(self.centers))
        features = ops.convert_to_tensor(y_pred)
        differences = features[:, None, :] - centers[None]  # (batch, classes, features)
        distances = ops.sum(ops.square(differences), -1) / 2
        return ops.sum(distributions(y_true, distances) * distances, -1)

    def update(self, y_true: Tensor, y_pred: Tensor) -> None:
        """Moves the centres towards the features of a batch."""
        y_true, y_pred = (ops.convert_to_tensor(y, dtype=self.dtype) for y in (y_true, y_pred))
        labels = distributions(y_true, ops.zeros((1, self.classes), self.dtype))
        counts = ops.sum(labels, 0)[:, None]
        pull = counts * self.centers - ops.matmul(ops.transpose(labels), y_pred)
        self.centers.assign(self.centers - self.rate * ops.stop_gradient(pull) / (1 + counts))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classes": self.classes,
            "features": self.features,
            "rate": self.rate,
        }
