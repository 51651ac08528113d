"""cnnkit: make, train and shrink convolutional networks.

Everything is loaded on first use, so that importing cnnkit does not import TensorFlow.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_SUBPACKAGES = ("analysis", "data", "models", "training")
_FUNCTIONS = {"check": "cnnkit.data", "train": "cnnkit.training.train"}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"cnnkit.{name}")
    raise AttributeError(f"module 'cnnkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", *_SUBPACKAGES, *_FUNCTIONS]
