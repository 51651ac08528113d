"""What augmentations have in common."""

import inspect
from typing import Any
from typing import Self

import tensorflow as tf

from cnnkit.types import Tensor


class Augmentation:
    """Base of augmentations, which hold no state: the same seed gives the same bits.

    Each picture has a draw of its own, by its place in the batch. A part is called with

    - `x`: pixels `(n, height, width, channels)`, float32 in 0-255;
    - `y`: distributions over the classes `(n, classes)`, float32;
    - `seed`: `(2,)`, int32;
    - `boxes`: what matters in each picture, `(n, 4)`; for `BoxCrop` alone;

    and returns `x` and `y` of the same shapes and types.
    """

    def __call__(
        self, x: Tensor, y: Tensor, seed: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that it was made with."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes it from the arguments."""
        return cls(**config)

    def __repr__(self) -> str:
        values = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({values})"


def uniform(seed: Tensor, shape: Any, low: Any = 0.0, high: Any = 1.0) -> Tensor:
    """Returns numbers in [low, high), the same on every device."""
    return low + (high - low) * tf.random.stateless_uniform(shape, seed, alg="philox")


def split(seed: Tensor, count: int) -> list[Tensor]:
    """Returns independent seeds."""
    return tf.unstack(tf.random.split(seed, count, alg="philox"))


def clipped(x: Tensor) -> Tensor:
    """Returns pixels in 0-255."""
    return tf.clip_by_value(x, 0.0, 255.0)


def require_colours(owner: str, x: Tensor) -> None:
    """Raises unless the pictures have three channels.

    Raises:
        ValueError: If they have not.
    """
    if x.shape[-1] != 3:
        raise ValueError(
            f"{owner} needs pictures in colour, with three channels. Received: {x.shape[-1]}"
        )
