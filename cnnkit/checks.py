"""Argument checks: every message says what, expected and received."""

from collections.abc import Collection
from typing import Any

from cnnkit.types import Shape


def in_range(
    owner: str, name: str, value: Any, low: float, high: float, *, closed: str = "both"
) -> float:
    """Returns `value` as a float if it lies in the interval.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is outside.
    """
    left = "[" if closed in ("both", "left") else "("
    right = "]" if closed in ("both", "right") else ")"
    wanted = f"in {left}{low}, {high}{right}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"`{name}` of {owner} must be a number {wanted}. Received: {name}={value!r}"
        )
    above = value >= low if left == "[" else value > low
    below = value <= high if right == "]" else value < high
    if not (above and below):
        raise ValueError(f"`{name}` of {owner} must be {wanted}. Received: {name}={value!r}")
    return float(value)


def integer(owner: str, name: str, value: Any, low: int, high: int | None = None) -> int:
    """Returns `value` if it is an integer of at least `low` and at most `high`.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is outside.
    """
    wanted = f"an integer >= {low}" if high is None else f"an integer in [{low}, {high}]"
    message = f"`{name}` of {owner} must be {wanted}. Received: {name}={value!r}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(message)
    if value < low or (high is not None and value > high):
        raise ValueError(message)
    return value


def one_of(owner: str, name: str, value: Any, choices: Collection[Any]) -> Any:
    """Returns `value` if it is one of `choices`.

    Raises:
        ValueError: If it is not.
    """
    if value in choices:
        return value
    raise ValueError(
        f"`{name}` of {owner} must be one of {tuple(choices)}. Received: {name}={value!r}"
    )


def known_channels(owner: str, input_shape: Shape) -> int:
    """Returns the size of the last axis, which must be known when building.

    Raises:
        ValueError: If it is None.
    """
    if input_shape[-1] is None:
        raise ValueError(
            f"{owner} needs a known channel count. Received: input_shape={input_shape}"
        )
    return input_shape[-1]
