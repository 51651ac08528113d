"""The distiller of Keras, fit for any student."""

from typing import Any

import keras
from keras import ops

from cnnkit.types import Tensor


class Distiller(keras.distillation.Distiller):
    """Trains a student on its teacher's outputs and on the labels.

    The loss is `(1 - w) · labels + w · teacher`, plus the student's own regularizers.

    Differs from Keras: where features are compared, Keras runs the student twice a step, and in
    training mode even when it validates, so that batch statistics move twice and dropout hides
    other neurons; here it runs once. Keras leaves the student's regularizers out. And the layers
    are the student's, as a callback expects them that was written for plain training.

    Attributes:
        answered: Whether `y` holds the teacher's logits beside the one-hot labels. The teacher
            then does not run.
    """

    answered = False

    def call(self, inputs: Tensor, training: bool | None = None, **kwargs: Any) -> Tensor:
        extractor = self._student_feature_extractor
        if extractor is None:
            return self.student(inputs, training=training)
        self._seen = extractor(inputs, training=training)
        return self._seen["final_output"]

    def _extract_all_teacher_features(self, x: Tensor) -> dict[str, Tensor]:
        if self.answered:
            return {"final_output": self._answers}
        return super()._extract_all_teacher_features(x)

    def _extract_all_student_features(self, x: Tensor, y_pred: Tensor) -> dict[str, Tensor]:
        if self._student_feature_extractor is None:
            return {"final_output": y_pred}
        return dict(self._seen)

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        if self.answered:
            y, self._answers = ops.split(y, 2, axis=-1)
        own = self.student.losses
        return sum(own, super().compute_loss(x, y, y_pred, sample_weight, training))

    def compute_metrics(
        self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None
    ) -> dict[str, Tensor]:
        if self.answered:
            y, _ = ops.split(y, 2, axis=-1)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    @property
    def layers(self) -> list[keras.layers.Layer]:
        return self.student.layers
