"""Augmentations made of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import Self

import keras

from cnnkit.augmentation.augmentation import Augmentation


class Group(Augmentation):
    """Base of augmentations that are made of others.

    Args:
        parts: Augmentations, at least one.

    Raises:
        ValueError: If there is none, or something else is among them.
    """

    def __init__(self, parts: Sequence[Augmentation]) -> None:
        if not parts or not all(isinstance(part, Augmentation) for part in parts):
            raise ValueError(
                f"`parts` of {type(self).__name__} must be one or more augmentations. "
                f"Received: parts={parts}"
            )
        self.parts = list(parts)

    def get_config(self) -> dict[str, Any]:
        return {"parts": [keras.saving.serialize_keras_object(part) for part in self.parts]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls([keras.saving.deserialize_keras_object(part) for part in config["parts"]])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.parts})"
