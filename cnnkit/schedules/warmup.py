"""A rise from zero before any other schedule."""

from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from cnnkit import checks
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("schedule")
class Warmup(LearningRateSchedule):
    """Raises the rate in a line from zero, then hands over to another schedule.

    `rate(t) = t / steps * after(0)` in the first `steps` steps, then `after(t - steps)`.

    Args:
        after: What follows; it begins at its own step 0.
        steps: Steps of the rise; 0 leaves it out.

    Raises:
        TypeError: If `after` is no schedule.
        ValueError: If `steps` is negative.

    Example:
        >>> rate = Warmup(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5), steps=4)
        >>> [round(float(rate(step)), 4) for step in (0, 2, 4, 14)]
        [0.0, 0.05, 0.1, 0.05]

    Reference:
        Goyal et al. 2017, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
        section 2.2, https://arxiv.org/abs/1706.02677. Differs: begins at zero.
    """

    def __init__(self, after: LearningRateSchedule, steps: int) -> None:
        if not isinstance(after, LearningRateSchedule):
            raise TypeError(f"`after` of Warmup must be a schedule. Received: after={after!r}")
        self.after = after
        self.steps = checks.integer("Warmup", "steps", steps, 0)

    def __call__(self, step: Tensor) -> Tensor:
        step = ops.cast(step, "float32")
        rise = step / max(1, self.steps) * self.after(0)
        return ops.where(step < self.steps, rise, self.after(ops.maximum(step - self.steps, 0.0)))

    def get_config(self) -> dict[str, Any]:
        return {"after": keras.saving.serialize_keras_object(self.after), "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Warmup":
        return cls(keras.saving.deserialize_keras_object(config["after"]), config["steps"])
