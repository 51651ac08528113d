"""Names for the types that signatures use."""

from typing import Any
from typing import TypeAlias

Shape: TypeAlias = tuple[int | None, ...]
Tensor: TypeAlias = Any  # Keras has no public tensor type.
