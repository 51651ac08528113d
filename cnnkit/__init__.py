"""cnnkit: make, train and shrink convolutional networks.

Everything is loaded on first use, so that importing cnnkit does not import TensorFlow.
"""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# oneDNN's kernels in TensorFlow 2.21 write past their memory in the gradient of convolutions, for
# example of a 1x1 one with stride 2 (https://github.com/tensorflow/tensorflow/issues/117700): with
# AVX-512, and with AVX2 in a ResNet-20 of a quarter of the width, training dies with `free():
# invalid next size` or `corrupted double-linked list`. So oneDNN stays off, although a ResNet-8
# trains up to twice as fast with it. TensorFlow reads this when it is imported; where that has
# been, oneDNN reads the other one on its first use and keeps to kernels that do not. Values of the
# user's stay.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "SSE41")

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
