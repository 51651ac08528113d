"""The arguments that every model has in common."""

import math
from typing import Any

from cnnkit import checks


def image_shape(owner: str, input_shape: Any, smallest: int) -> tuple[int, int, int]:
    """Returns `input_shape` if it is that of a picture which the model can take in.

    Raises:
        ValueError: If it is not `(height, width, channels)`, or smaller than `smallest`.
    """
    sizes = tuple(input_shape) if isinstance(input_shape, tuple | list) else ()
    whole = all(isinstance(size, int) and size >= 1 for size in sizes)
    if len(sizes) == 3 and whole and min(sizes[:2]) >= smallest:
        return sizes
    raise ValueError(
        f"`input_shape` of {owner} must be (height, width, channels) with a height and width of "
        f"at least {smallest}. Received: input_shape={input_shape!r}"
    )


def class_count(owner: str, classes: Any) -> int:
    """Returns `classes` if there is something to choose from.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is less than 2.
    """
    return checks.integer(owner, "classes", classes, 2)


def scaled(owner: str, width: Any, channels: tuple[int, ...], multiple: int = 1) -> tuple[int, ...]:
    """Returns `channels` times `width`, rounded to the nearest multiple and at least one multiple.

    Raises:
        TypeError: If `width` is not a number.
        ValueError: If it is not positive and finite.
    """
    width = checks.in_range(owner, "width", width, 0.0, math.inf, closed="neither")
    return tuple(multiple * max(1, round(count * width / multiple)) for count in channels)
