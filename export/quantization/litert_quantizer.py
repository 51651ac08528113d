"""Google's litert-quantizer, which rewrites float32 `.tflite` files; the extra [quantizers].

The files must be as the converter leaves them, since the tool knows tensors by their names.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from cnnkit.errors import UsageError
from export.formats.metadata import INPUT


def missing() -> str:
    """Returns what is not installed, or an empty string."""
    return "" if importlib.util.find_spec("litert_quantizer") else "litert-quantizer"


def require() -> None:
    """Raises UsageError if litert-quantizer is not installed."""
    if what := missing():
        raise UsageError(f"{what} is not installed", todo="`pip install 'cnnkit[quantizers]'`")


def static_int8(content: bytes, calibration: np.ndarray) -> bytes:
    """Returns the file with int8 weights and activations, calibrated on pictures.

    The ranges are moving averages over the pictures.

    Raises:
        UsageError: If litert-quantizer is not installed.
    """
    recipe = _module("recipe").static_wi8_ai8()
    samples = [{INPUT: row[None].astype(np.float32)} for row in calibration]
    return _quantize(content, recipe, samples)


def int4_weights(content: bytes) -> bytes:
    """Returns the file with int4 weights of convolutions and dense layers, a scale per channel.

    Other weights, which have no int4 kernel, become int8. Activations are float32 between layers,
    and int8 inside of them by ranges that are taken anew for each picture.

    Raises:
        UsageError: If litert-quantizer is not installed.

    Reference:
        Sakr et al. 2022, "Optimal clipping and magnitude-aware differentiation for improved
        quantization-aware training", https://arxiv.org/abs/2206.06501: where weights are clipped.
        Differs: after the training.
    """
    names = _module("qtyping").TFLOperationName
    manager = _module("recipe_manager").RecipeManager()
    manager.add_dynamic_config(regex=".*", operation_name=names.ALL_SUPPORTED, num_bits=8)
    for name in (names.CONV_2D, names.FULLY_CONNECTED):
        manager.add_dynamic_config(
            regex=".*",
            operation_name=name,
            num_bits=4,
            algorithm_key=_module("algorithm_manager").AlgorithmName.OCTAV,
        )
    return _quantize(content, manager.get_quantization_recipe(), None)


def _module(name: str) -> ModuleType:
    require()
    return importlib.import_module(f"litert_quantizer.{name}")


def _quantize(content: bytes, recipe: Any, samples: list[dict[str, np.ndarray]] | None) -> bytes:
    with _silence():
        tool = _module("quantizer").Quantizer(bytearray(content), recipe)
        ranges = samples and tool.calibrate({"serving_default": samples}, num_threads=1)
        return bytes(tool.quantize(ranges).quantized_model)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps the tool from writing to the console."""
    nowhere = io.StringIO()
    with (
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
