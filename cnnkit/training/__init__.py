"""Training: the recipe, the loop and the run folder. Loaded on first use, without TensorFlow."""

import importlib
from typing import Any

# `train`, `fit` and `evaluate` are modules here; each has a function of its name.
_EXPORTS = {
    "Recipe": "recipe",
    "Resolved": "recipe",
    "resolve": "recipe",
    "Reporter": "reporter",
    "Run": "train",
    "deployable": "network",
    "Scores": "evaluate",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"cnnkit.training.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'cnnkit.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(_EXPORTS)
