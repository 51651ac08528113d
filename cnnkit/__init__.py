"""cnnkit: make, train and shrink convolutional networks.

Everything is loaded on first use, so that importing cnnkit does not import TensorFlow.
"""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# TensorFlow is up to twice as fast on CPUs with oneDNN, which it leaves off on some of them. Some
# kernels of oneDNN corrupt memory: see `cnnkit.onednn`. TensorFlow reads the first when it is
# imported, oneDNN the second on its first use. Values of the user's stay.
LIMIT = "ONEDNN_MAX_CPU_ISA"
LIMITED = LIMIT not in os.environ
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault(LIMIT, "AVX")

_SUBPACKAGES = (
    "analysis",
    "augmentation",
    "blocks",
    "constraints",
    "data",
    "ensembles",
    "initializers",
    "layers",
    "losses",
    "models",
    "regularizers",
    "schedules",
    "training",
)
_FUNCTIONS = {"check": "cnnkit.data", "train": "cnnkit.training.train"}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"cnnkit.{name}")
    raise AttributeError(f"module 'cnnkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", *_SUBPACKAGES, *_FUNCTIONS]
