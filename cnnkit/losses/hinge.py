"""Hinge losses: a margin of one, and no more."""

from typing import Any

from keras import ops

from cnnkit import checks
from cnnkit.losses.class_loss import ClassLoss
from cnnkit.losses.margins import best_other
from cnnkit.registry import register
from cnnkit.types import Tensor

KINDS = ("score", "crammer_singer", "weston_watkins")


@register("loss")
class Hinge(ClassLoss):
    """Penalizes scores of the true class that miss a margin of one, in proportion.

    With scores `h` and the true class `y`:

    - "score": `max(0, 1 - h_y)`. It compares with no other class, so that a network whose scores
      are all large has no loss: it is a bound for scores that compete by themselves.
    - "crammer_singer": `max(0, 1 - h_y + max_{j≠y} h_j)`.
    - "weston_watkins": `Σ_{j≠y} max(0, 1 - h_y + h_j)`. Memory grows with the square of the
      number of classes.

    The derivative of `max(0, x)` at 0 is 0.

    Args:
        kind: "score", "crammer_singer" or "weston_watkins".
        label_smoothing: Part of each label that is spread over all classes, in [0, 1).
        **kwargs: `name`, `reduction` and `dtype`, as every loss of Keras has them.

    Target shape:
        `y_true`: class numbers `(batch,)`, or distributions `(batch, classes)`, whose loss is the
        expectation. `y_pred`: scores `(batch, classes)`.

    Raises:
        ValueError: If an argument is outside its choices.

    Example:
        >>> float(Hinge("weston_watkins")([0], [[1.0, 0.5, -3.0]]))
        0.5

    Reference:
        Crammer, Singer 2001, "On the Algorithmic Implementation of Multiclass Kernel-based Vector
        Machines", eq. 3, https://www.jmlr.org/papers/v2/crammer01a.html; Weston, Watkins 1999,
        "Support Vector Machines for Multi-Class Pattern Recognition", eq. 2. Differs: a margin of
        1 throughout, where Weston and Watkins have 2. CategoricalHinge of Keras is Crammer and
        Singer's with one more rival, whose score is 0.
    """

    def __init__(self, kind: str = "score", label_smoothing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(label_smoothing, **kwargs)
        self.kind = checks.one_of("Hinge", "kind", kind, KINDS)

    def per_class(self, y_pred: Tensor) -> Tensor:
        if self.kind == "score":
            return ops.relu(1 - y_pred)
        if self.kind == "crammer_singer":
            return ops.relu(1 - y_pred + best_other(y_pred))
        margins = y_pred[..., :, None] - y_pred[..., None, :]  # (batch, class, other)
        return ops.sum(ops.relu(1 - margins), -1) - 1  # the class is not its own rival

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind}
