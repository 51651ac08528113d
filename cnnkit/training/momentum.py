"""Gradient descent whose momentum rises."""

from typing import Any

import keras
from keras import ops

from cnnkit import checks
from cnnkit.types import Tensor


@keras.saving.register_keras_serializable(package="cnnkit")
class RampedSGD(keras.optimizers.SGD):
    """Gradient descent with a momentum that rises in a line from `start` to `end`, and stays.

    `v <- m(t) v - rate * g; w <- w + v`, with `m(t) = start + (end - start) min(1, t / steps)`.

    Args:
        learning_rate: A number or a schedule.
        start: Momentum of the first step, in [0, 1].
        end: Momentum from step `steps` on, in [0, 1]; 0.99 is the other usual value.
        steps: Of the rise, at least 1.
        **kwargs: As all optimizers of Keras.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Wei 2017, eq. 11.2 and 11.3 and the text after them. Differs: the rise, which is left open
        there, is linear.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        start: float = 0.5,
        end: float = 0.9,
        steps: int = 1000,
        **kwargs: Any,
    ) -> None:
        # A momentum other than zero makes Keras keep the velocities; this one is never used.
        super().__init__(learning_rate, momentum=1.0, **kwargs)
        self.start = checks.in_range("RampedSGD", "start", start, 0.0, 1.0)
        self.end = checks.in_range("RampedSGD", "end", end, 0.0, 1.0)
        self.steps = checks.integer("RampedSGD", "steps", steps, 1)

    def momentum_at(self, step: Tensor) -> Tensor:
        """Returns the momentum of a step, counted from 0."""
        done = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        return self.start + (self.end - self.start) * done

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        velocity = self.momentums[self._get_variable_index(variable)]
        momentum = ops.cast(self.momentum_at(self.iterations), variable.dtype)
        step = ops.cast(learning_rate, variable.dtype) * ops.cast(gradient, variable.dtype)
        self.assign(velocity, momentum * velocity - step)
        self.assign_add(variable, velocity)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["momentum"], config["nesterov"]
        return {**config, "start": self.start, "end": self.end, "steps": self.steps}
