"""Softmax cross-entropy that asks for an angular margin."""

import math
from typing import Any

from keras import ops

from cnnkit import checks
from cnnkit.losses.class_loss import ClassLoss
from cnnkit.losses.margins import logsumexp_of_others
from cnnkit.registry import register
from cnnkit.types import Tensor

# cos(mθ) as a polynomial of cos θ, highest power first.
CHEBYSHEV = {1: (1, 0), 2: (2, 0, -1), 3: (4, 0, -3, 0), 4: (8, 0, -8, 0, 1)}


@register("loss")
class LargeMarginSoftmax(ClassLoss):
    """Cross-entropy in which the true class has `φ(θ)` in place of the cosine of its angle.

    The score of the true class, `‖W_y‖ ‖x‖ cos θ`, becomes `‖W_y‖ ‖x‖ (λ cos θ + φ(θ)) / (1 + λ)`
    with `φ(θ) = (-1)^k cos(mθ) - 2k` for θ in `[kπ/m, (k+1)π/m]`. For training only: a network
    trained so is used with a plain softmax.

    Args:
        margin: m, an integer in [1, 4]; 1 is the plain cross-entropy.
        blend: λ, not negative: how much of the plain cosine is kept, from which training starts
            and which `cnnkit.training` lets fall. 0 is the paper's loss.
        label_smoothing: Part of each label that is spread over all classes, in [0, 1).
        **kwargs: `name`, `reduction` and `dtype`, as every loss of Keras has them.

    Target shape:
        `y_true`: class numbers `(batch,)`, or distributions `(batch, classes)`, whose loss is the
        expectation. `y_pred`: `(batch, 2, classes)`, what `angular` returns: the scores `W_c · x`
        and the products of lengths `‖W_c‖ ‖x‖`.

    Raises:
        TypeError: If `margin` is no integer.
        ValueError: If an argument is outside its interval.

    Reference:
        Liu et al. 2016, "Large-Margin Softmax Loss for Convolutional Neural Networks", eq. 4 to 6
        and section 5.1, https://arxiv.org/abs/1612.02295. Differs: a bias of the classifier is one
        more weight, of a feature that is always 1; the paper has none.
    """

    def __init__(
        self,
        margin: int = 4,
        blend: float = 0.0,
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(label_smoothing, **kwargs)
        self.margin = checks.integer("LargeMarginSoftmax", "margin", margin, 1, max(CHEBYSHEV))
        self.blend = checks.in_range(
            "LargeMarginSoftmax", "blend", blend, 0.0, float("inf"), closed="left"
        )

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.blended(y_true, ops.convert_to_tensor(y_pred), self.blend)

    def blended(self, y_true: Tensor, y_pred: Tensor, blend: Tensor) -> Tensor:
        """Returns the loss of each example with another `blend`, which may be a tensor."""
        scores, lengths = y_pred[..., 0, :], y_pred[..., 1, :]
        cosine = scores / ops.where(lengths > 0, lengths, 1)
        own = (blend * scores + lengths * phi(cosine, self.margin)) / (1 + blend)
        losses = ops.softplus(logsumexp_of_others(scores) - own)
        return ops.sum(self.labels(y_true, losses) * losses, -1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "blend": self.blend}


def phi(cosine: Tensor, margin: int) -> Tensor:
    """Returns `φ(θ)` of `cos θ`: falls from 1 at θ = 0 to `1 - 2 margin` at θ = π."""
    multiple = ops.zeros_like(cosine)
    for coefficient in CHEBYSHEV[margin]:
        multiple = multiple * cosine + coefficient
    k = ops.zeros_like(cosine)
    for border in range(1, margin):
        k += ops.cast(cosine < math.cos(border * math.pi / margin), cosine.dtype)
    return (1 - 2 * (k % 2)) * multiple - 2 * k


def angular(features: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns what `LargeMarginSoftmax` compares: scores and products of lengths.

    Args:
        features: What the classifier is given, `(batch, features)`.
        kernel: Its weights, `(features, classes)`.
        bias: `(classes,)`, or None.
    """
    scores = ops.matmul(features, kernel)
    squares = ops.sum(ops.square(features), -1, keepdims=True)
    weights = ops.sum(ops.square(kernel), 0, keepdims=True)
    if bias is not None:
        scores, squares, weights = scores + bias, squares + 1, weights + ops.square(bias)
    products = squares * weights
    # The root's gradient at zero is infinite, and NaN after the chain rule.
    lengths = ops.where(products > 0, ops.sqrt(ops.where(products > 0, products, 1)), 0)
    return ops.stack([scores, lengths], 1)
