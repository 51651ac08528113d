"""The compression passes by name, and the grammar `NAME:key=value,…`."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Any

from pydantic import ValidationError

from cnnkit import grammar
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    import keras

    from export.pipeline import PassData
    from export.result import Invariant
    from export.result import Result

# Name -> module with `Config` and `apply(model, config, data) -> Result`; with `invariants(model,
# config)` too where later passes must leave something true.
PASSES: dict[str, str] = {
    "low-rank": "export.low_rank.decompose",
    "prune-filters": "export.pruning.filters",
    "prune-weights": "export.pruning.weights",
    "qat": "export.quantization.qat",
}


@dataclass(frozen=True)
class Pass:
    """One pass with its options; as a string, what `parse` takes, defaults left out."""

    name: str
    config: Any

    def apply(self, model: keras.Model, data: PassData | None = None) -> Result:
        """Returns the compressed model and what was done; `model` itself is not changed."""
        return importlib.import_module(PASSES[self.name]).apply(model, self.config, data)

    def invariants(self, model: keras.Model) -> list[Invariant]:
        """Returns what a model that went through this pass must keep."""
        find = getattr(importlib.import_module(PASSES[self.name]), "invariants", None)
        return find(model, self.config) if find else []

    def __str__(self) -> str:
        fields = [(f, getattr(self.config, f.name)) for f in dataclasses.fields(self.config)]
        options = ",".join(f"{f.name}={value}" for f, value in fields if value != f.default)
        return f"{self.name}:{options}" if options else self.name


def parse(text: str) -> Pass:
    """Returns the pass that `text` describes.

    Raises:
        UsageError: If the pass, an option or a value is not a known one.

    Example:
        >>> str(parse("prune-filters:ratio=0.5,scope=global"))
        'prune-filters:ratio=0.5,scope=global'
    """
    name, values = grammar.parse("pass", text, PASSES, _keys)
    config = _config(name)
    try:
        return Pass(name, config(**values))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        field = config.__pydantic_fields__[key]
        raise UsageError(
            f"Wrong value of `{key}` of pass {name!r}",
            expected=f"{field.description}, default {field.default}",
            received=values[key],
        ) from error


def _config(name: str) -> Any:
    return importlib.import_module(PASSES[name]).Config


def _keys(name: str) -> list[str]:
    return [field.name for field in dataclasses.fields(_config(name))]
