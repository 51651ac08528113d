"""The one registry: every public part of cnnkit is found here by kind and name."""

import difflib
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any
from typing import TypeVar

from cnnkit.errors import UsageError

KINDS = (
    "activation",
    "augmentation",
    "block",
    "callback",
    "constraint",
    "initializer",
    "layer",
    "loss",
    "model",
    "regularizer",
    "schedule",
)

_PARTS: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}

T = TypeVar("T", bound=Callable[..., Any])


def register(kind: str, name: str | None = None) -> Callable[[T], T]:
    """Registers a part under `kind`, and with Keras as `cnnkit>ClassName`.

    Blocks and models are functions that make graphs of layers: Keras has nothing to load them by.

    Args:
        kind: One of `KINDS`.
        name: Name to look the part up by. Defaults to the object's own name.

    Returns:
        A decorator that returns its argument unchanged.

    Raises:
        ValueError: If `kind` is unknown or `name` is already taken.
    """
    if kind not in _PARTS:
        raise ValueError(f"`kind` must be one of {KINDS}. Received: kind={kind!r}")

    def decorate(part: T) -> T:
        key = name or part.__name__
        if key in _PARTS[kind]:
            raise ValueError(
                f"The {kind} {key!r} is already registered by {_PARTS[kind][key].__module__}."
            )
        _PARTS[kind][key] = part
        if kind in ("block", "model"):
            return part
        import keras

        return keras.saving.register_keras_serializable(package="cnnkit")(part)

    return decorate


def get(kind: str, name: str) -> Any:
    """Returns the part registered as `name`.

    Raises:
        UsageError: If there is none; the message has the closest names.
    """
    return _PARTS[kind][known(kind, name, _PARTS[kind])]


def names(kind: str) -> list[str]:
    """Returns the names registered under `kind`, sorted."""
    return sorted(_PARTS[kind])


def known(kind: str, name: str, choices: Iterable[str]) -> str:
    """Returns `name` if it is one of `choices`.

    Raises:
        UsageError: If it is not; the message has the three closest of them.
    """
    choices = list(choices)
    if name in choices:
        return name
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.0)
    todo = f"Closest: {', '.join(close)}" if close else "There is none"
    raise UsageError(f"Unknown {kind} {name!r}", todo=todo)
