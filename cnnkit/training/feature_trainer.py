"""Trains a classifier by its features and its last weights, not by its logits alone."""

import keras
from keras import ops

from cnnkit.analysis.logits import last_dense
from cnnkit.analysis.logits import origin
from cnnkit.errors import UsageError
from cnnkit.losses import CenterLoss
from cnnkit.losses import LargeMarginSoftmax
from cnnkit.losses import angular
from cnnkit.types import Tensor

# How much of the plain cosine is kept: at the start, and by what law less and less. With 30,000
# steps it is what the authors of the large-margin softmax used on MNIST,
# https://github.com/wy1iu/LargeMargin_Softmax_Loss.
BLEND, FALL, POWER = 1000.0, 0.75, -35


class FeatureTrainer(keras.Model):
    """A classifier, trained with losses that need what its last Dense layer is given.

    It has the layers of the classifier and adds none: after `fit` the classifier itself is trained,
    and this wrapper can be dropped. The loss that it is compiled with judges it in validation.

    Args:
        model: Functional model from pictures to logits, which a Dense layer makes.
        margin: Takes the place of the compiled loss in training; its `blend` is not used: it falls
            from 1000 to nothing over `steps`. None leaves the compiled loss in place.
        center: Is added in training, and its centres are moved; None leaves it out.
        center_weight: λ of the centre loss, not negative.
        steps: Of the training, at least 1.

    Raises:
        UsageError: If the logits are not made by a Dense layer.
    """

    def __init__(
        self,
        model: keras.Model,
        margin: LargeMarginSoftmax | None = None,
        center: CenterLoss | None = None,
        center_weight: float = 0.0,
        steps: int = 1,
    ) -> None:
        super().__init__(name=model.name)
        self.dense, features = classifier(model)
        self.both = keras.Model(model.inputs[0], [features, model.outputs[0]])
        self.margin, self.center, self.center_weight = margin, center, center_weight
        self.centers = center and center.centers  # Known to Keras as state only if it is here.
        self.total_steps = steps
        self.step = self.add_weight(name="step", shape=(), initializer="zeros", trainable=False)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        self._features, logits = self.both(inputs, training=training)
        return logits

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        if not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        features = ops.cast(self._features, "float32")
        if self.margin is None:
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        else:
            compared = angular(features, self.dense.kernel, self.dense.bias)
            blend = BLEND * (1 + FALL * self.step / self.total_steps) ** POWER
            each = self.margin.blended(y, compared, blend)
            if sample_weight is not None:
                each *= sample_weight
            loss = sum(self.losses, ops.mean(each))
        if self.center is not None:
            loss += self.center_weight * self.center(y, features, sample_weight)
            self.center.update(y, features)
        self.step.assign_add(1)
        return loss

    @property
    def layers(self) -> list[keras.layers.Layer]:
        return self.both.layers


def classifier(model: keras.Model) -> tuple[keras.layers.Dense, Tensor]:
    """Returns the Dense layer that makes the logits of a functional model, and its input.

    Raises:
        UsageError: If there is none.
    """
    found = last_dense(model)
    if found is None:
        operation, _ = origin(model.outputs[0])
        raise UsageError(
            "The loss needs a Dense layer that makes the logits",
            received=f"{type(operation).__name__} {operation.name!r}",
            todo="choose another loss.name, and loss.center_weight=0",
        )
    return found
