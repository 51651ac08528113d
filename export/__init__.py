"""export: make a trained network small and write it as files that were run before you get them.

Everything is loaded on first use, so that importing export does not import TensorFlow.
"""

import importlib
from typing import Any

_FUNCTIONS = {
    "Bundle": "export.bundle",
    "compress": "export.pipeline",
    "distill": "export.distillation.distill",
    "ensemble": "export.ensembling",
    "open_model": "export.runtime",
    "verify": "export.verification",
    "write": "export.bundle",
}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module 'export' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(_FUNCTIONS)
