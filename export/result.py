"""What a compression pass hands back."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol

if TYPE_CHECKING:
    import keras

    from export.quantization.ranges import Ranges


class Invariant(Protocol):
    """Something that a pass made true and that must stay true."""

    def keeper(self, model: keras.Model) -> keras.callbacks.Callback | None:
        """Returns what keeps it true while `model` is trained, or None if nothing needs to."""

    def broken(self, model: keras.Model) -> str:
        """Returns in what `model` does not have it, or an empty string."""


@dataclass(frozen=True)
class Result:
    """A new model, and what was done to get it.

    Attributes:
        model: Plain Keras model; the one that came in is as it was.
        summary: Numbers of the pass, ready for JSON.
        index_map: By path of a layer that lost output channels, the numbers of those it kept.
        protected: Layers that the pass left alone, each with the reason.
        notes: What the user should know.
        missed: Which target was out of reach, and how far the model got; empty if none was.
        invariants: What later passes and later training must leave true.
        ranges: Of activations, learned for int8 together with the weights: a model that has them
            is not trained any more, and files in int8 take them instead of calibrating.
    """

    model: keras.Model
    summary: dict[str, Any]
    index_map: dict[str, list[int]] = field(default_factory=dict)
    protected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missed: str = ""
    invariants: list[Invariant] = field(default_factory=list)
    ranges: Ranges | None = None


def change(name: str, before: int, after: int) -> dict[str, float]:
    """Returns two counts and the fraction that is gone, for a summary."""
    ratio = 1 - after / before if before else 0.0
    return {f"{name}_before": before, f"{name}_after": after, f"{name}_ratio": ratio}
