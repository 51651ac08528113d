"""The hinge loss, cut off where an example is hopelessly wrong."""

from typing import Any

from keras import ops

from cnnkit import checks
from cnnkit.losses.class_loss import ClassLoss
from cnnkit.losses.margins import best_other
from cnnkit.registry import register
from cnnkit.types import Tensor

KINDS = ("score", "crammer_singer")


@register("loss")
class Ramp(ClassLoss):
    """The truncated hinge loss `max(0, 1 - u) - max(0, s - u)`: wrong labels cost `1 - s` at most.

    The derivative is -1 for `s <= u < 1` and 0 elsewhere, at the corner `u = 1` too. Where `s` is
    near 0, most examples of a fresh network have no slope: start with a lower one, or with weights
    that were trained otherwise.

    Args:
        s: Where the loss stops growing, below 1. None takes `-1 / (C - 1)` for C classes, below
            which the loss is not consistent.
        kind: What `u` is. "score": the score `h_y` of the true class. "crammer_singer": its
            distance `h_y - max_{j≠y} h_j` to the best other one, without which a network whose
            scores are all large has no loss.
        label_smoothing: Part of each label that is spread over all classes, in [0, 1).
        **kwargs: `name`, `reduction` and `dtype`, as every loss of Keras has them.

    Target shape:
        `y_true`: class numbers `(batch,)`, or distributions `(batch, classes)`, whose loss is the
        expectation. `y_pred`: scores `(batch, classes)`.

    Raises:
        ValueError: If an argument is outside its interval.

    Example:
        >>> float(Ramp()([0], [[-9.0, 0.0, 0.0]]))
        1.5

    Reference:
        Collobert et al. 2006, "Trading Convexity for Scalability", eq. 5,
        https://doi.org/10.1145/1143844.1143870; `s` and the difference: Wu, Liu 2007, "Robust
        Truncated Hinge Loss Support Vector Machines", section 2,
        https://doi.org/10.1198/016214507000000617. Differs: nothing.
    """

    def __init__(
        self,
        s: float | None = None,
        kind: str = "score",
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(label_smoothing, **kwargs)
        self.s = (
            s
            if s is None
            else checks.in_range("Ramp", "s", s, -float("inf"), 1.0, closed="neither")
        )
        self.kind = checks.one_of("Ramp", "kind", kind, KINDS)

    def per_class(self, y_pred: Tensor) -> Tensor:
        s = -1 / (y_pred.shape[-1] - 1) if self.s is None else self.s
        u = y_pred if self.kind == "score" else y_pred - best_other(y_pred)
        return ops.relu(1 - u) - ops.relu(s - u)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "s": self.s, "kind": self.kind}
