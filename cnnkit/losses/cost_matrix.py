"""What each mistake costs, by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from cnnkit.losses.class_loss import ClassLoss
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("loss")
class CostMatrix(ClassLoss):
    """The expected cost `Σ_j C(y, j) p_j` of an answer that is drawn from the prediction `p`.

    Smooth where the cost of the likeliest class is not, and equal to it where `p` is sure.

    Args:
        costs: C, a list of rows: `costs[i][j]` is the cost of taking class i for class j, finite
            and not negative; the diagonal is 0. See `costs_from_counts`, `costs_from_confusion`.
        from_logits: False if predictions are probabilities.
        label_smoothing: Part of each label that is spread over all classes, in [0, 1).
        **kwargs: `name`, `reduction` and `dtype`, as every loss of Keras has them.

    Target shape:
        `y_true`: class numbers `(batch,)`, or distributions `(batch, classes)`, whose loss is the
        expectation. `y_pred`: logits or probabilities `(batch, classes)`.

    Raises:
        ValueError: If `costs` is no such matrix.

    Example:
        >>> float(CostMatrix([[0, 2], [9, 0]], from_logits=False)([1], [[0.5, 0.5]]))
        4.5

    Reference:
        Elkan 2001, "The Foundations of Cost-Sensitive Learning", eq. 1. Differs: true classes are
        rows, answers columns; the expectation is over the answer.
    """

    def __init__(
        self,
        costs: Sequence[Sequence[float]],
        from_logits: bool = True,
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(label_smoothing, **kwargs)
        self.costs = _checked(costs)
        self.from_logits = from_logits

    def per_class(self, y_pred: Tensor) -> Tensor:
        probabilities = ops.softmax(y_pred) if self.from_logits else y_pred
        costs = ops.convert_to_tensor(self.costs, dtype=y_pred.dtype)
        return ops.matmul(probabilities, ops.transpose(costs))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "costs": self.costs, "from_logits": self.from_logits}


def costs_from_counts(counts: Sequence[int]) -> list[list[float]]:
    """Returns `C(i, j) = n_j / n_i`: mistakes cost the more, the rarer their class is.

    Args:
        counts: Examples of each class, positive.

    Raises:
        ValueError: If there are less than two classes, or one has no example.

    Example:
        >>> costs_from_counts([2, 1])
        [[0.0, 0.5], [2.0, 0.0]]
    """
    n = np.asarray(counts, float)
    if n.ndim != 1 or len(n) < 2 or not (np.isfinite(n) & (n > 0)).all():
        raise ValueError(
            "`counts` of costs_from_counts must be two or more positive numbers. "
            f"Received: counts={counts}"
        )
    return ((1 - np.eye(len(n))) * n / n[:, None]).tolist()


def costs_from_confusion(confusion: Sequence[Sequence[int]]) -> list[list[float]]:
    """Returns the mistakes of each class, times the class' share of the error rates.

    With the error rate `e_i` of class i, `C(i, j) = n_ij e_i / Σ_k e_k` for i ≠ j. Mistakes that
    never were cost nothing: add such a loss to one that keeps all classes apart.

    Args:
        confusion: Counts n; rows are true classes, columns answers.

    Raises:
        ValueError: If it is no square matrix of counts, or a class has no example.

    Example:
        >>> costs_from_confusion([[2, 2], [0, 8]])
        [[0.0, 2.0], [0.0, 0.0]]
    """
    n = np.asarray(confusion, float)
    counted = n.ndim == 2 and n.shape[0] == n.shape[1] >= 2 and (np.isfinite(n) & (n >= 0)).all()
    if not counted or not n.sum(1).all():
        raise ValueError(
            "`confusion` of costs_from_confusion must be a square matrix of counts without empty "
            f"rows. Received: confusion={confusion}"
        )
    wrong = n * (1 - np.eye(len(n)))
    rates = wrong.sum(1) / n.sum(1)
    shares = rates / rates.sum() if rates.any() else rates
    return (wrong * shares[:, None]).tolist()


def _checked(costs: Sequence[Sequence[float]]) -> list[list[float]]:
    matrix = np.asarray(costs, float)
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] >= 2
    if not square or not (np.isfinite(matrix) & (matrix >= 0)).all() or matrix.diagonal().any():
        raise ValueError(
            "`costs` of CostMatrix must be a square matrix of finite numbers >= 0 with zeros on "
            f"its diagonal. Received: costs={costs}"
        )
    return matrix.tolist()
