"""Labels that are distributions over ordered classes, such as ages."""

from typing import Any

import keras
from keras import ops

from cnnkit import checks
from cnnkit.losses.class_loss import ClassLoss
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("loss")
class LabelDistribution(ClassLoss):
    """The Kullback-Leibler divergence `Σ_k y_k log(y_k / ŷ_k)` of a label from the prediction.

    Its gradient is that of the cross-entropy; less the label's entropy, it is 0 at a match.

    Args:
        sigma: Spreads each label over the classes near it, as a Gaussian of this standard
            deviation in classes, not negative. 0 takes labels as they are.
        from_logits: False if predictions are probabilities.
        label_smoothing: Part of each label that is spread over all classes, in [0, 1).
        **kwargs: `name`, `reduction` and `dtype`, as every loss of Keras has them.

    Target shape:
        `y_true`: class numbers `(batch,)`, or distributions `(batch, classes)`, such as `gaussian`
        makes them. `y_pred`: logits or probabilities `(batch, classes)`.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Gao et al. 2017, "Deep Label Distribution Learning with Label Ambiguity", eq. 2 to 4,
        https://arxiv.org/abs/1611.01731. Differs: nothing. The KL divergence of Keras takes only
        probabilities, which it clips at 1e-7; those that are given here are clipped there too.
    """

    def __init__(
        self,
        sigma: float = 0.0,
        from_logits: bool = True,
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(label_smoothing, **kwargs)
        self.sigma = checks.in_range(
            "LabelDistribution", "sigma", sigma, 0.0, float("inf"), closed="left"
        )
        self.from_logits = from_logits

    def per_class(self, y_pred: Tensor) -> Tensor:
        if self.from_logits:
            return -ops.log_softmax(y_pred)
        return -ops.log(ops.maximum(y_pred, keras.config.epsilon()))

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        losses = self.per_class(ops.convert_to_tensor(y_pred))
        labels = self.labels(y_true, losses)
        logs = ops.log(ops.where(labels > 0, labels, 1))
        return ops.sum(labels * (losses + logs), -1)

    def labels(self, y_true: Tensor, like: Tensor) -> Tensor:
        labels = super().labels(y_true, like)
        if self.sigma:
            classes = ops.arange(like.shape[-1], dtype=like.dtype)
            labels = ops.matmul(labels, gaussian(classes, classes, self.sigma))
        return labels

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sigma": self.sigma, "from_logits": self.from_logits}


def gaussian(values: Tensor, grid: Tensor, sigma: float) -> Tensor:
    """Returns for each value the distribution `N(value, sigma²)` over the points of a grid.

    Args:
        values: True values, such as ages, `(batch,)`.
        grid: What the classes stand for, `(classes,)`.
        sigma: Standard deviation in the unit of the values, positive.

    Raises:
        ValueError: If `sigma` is not positive.

    Example:
        >>> gaussian([30.0], [29.0, 30.0, 31.0], 1.0)[0].numpy().round(3).tolist()
        [0.27399998903274536, 0.4519999921321869, 0.27399998903274536]

    Reference:
        Geng et al. 2013, "Facial Age Estimation by Learning from Label Distributions", section 3,
        https://doi.org/10.1109/TPAMI.2013.51. Differs: nothing.
    """
    checks.in_range("gaussian", "sigma", sigma, 0.0, float("inf"), closed="neither")
    values, grid = (ops.convert_to_tensor(x, dtype=keras.config.floatx()) for x in (values, grid))
    return ops.softmax(-ops.square((grid - values[:, None]) / sigma) / 2)


def expectation(distributions: Tensor, grid: Tensor) -> Tensor:
    """Returns the prediction `Σ_k ŷ_k l_k` of each distribution over the points of a grid.

    Args:
        distributions: Probabilities `(batch, classes)`.
        grid: What the classes stand for, `(classes,)`.
    """
    distributions = ops.convert_to_tensor(distributions)
    return ops.sum(distributions * ops.cast(grid, distributions.dtype), -1)
