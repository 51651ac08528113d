"""cnnkit: make, train and shrink convolutional networks.

Everything is loaded on first use, so that importing cnnkit does not import TensorFlow.
"""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# oneDNN's AVX-512 kernels in TensorFlow 2.21 write past their memory, for example in the gradient
# of a 1x1 convolution with stride 2 (https://github.com/tensorflow/tensorflow/issues/117700):
# training then dies with `free(): invalid next size`. Its AVX2 kernels do not. It reads this on
# first use, so importing cnnkit after TensorFlow is early enough; a value of the user's stays.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
# TensorFlow leaves oneDNN off where a processor has no AVX-512, although a ResNet-8 trains twice as
# fast with it. This one it reads when it is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

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
