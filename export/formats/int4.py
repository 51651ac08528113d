"""TensorFlow Lite files with int4 weights: half of int8, for networks whose weights are many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnkit import checks
from cnnkit import files
from export.formats import flatbuffer
from export.formats import metadata as meta
from export.formats import tflite
from export.quantization import litert_quantizer

if TYPE_CHECKING:
    import keras

VARIANTS = ("int4",)
QUICK = tflite.QUICK

run = tflite.run
predictor = tflite.predictor
input_shape = tflite.input_shape
metadata = tflite.metadata
notes = tflite.notes
missing = litert_quantizer.missing


def write(
    model: keras.Model,
    path: Path,
    *,
    variant: str = "int4",
    calibration: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    resize: str | None = None,
) -> Path:
    """Writes `model` as a TFLite file of batch 1 and returns `path`.

    Args:
        model: One input, one output. Deployable models take raw pixels 0-255.
        path: Where the file goes; it appears there whole or not at all.
        variant: "int4"; see `litert_quantizer.int4_weights` for what becomes int4.
        calibration: Not used; here so that all formats are written alike.
        labels: Class names, stored in the file.
        resize: Name of the resize rule, stored in the file.

    Raises:
        UsageError: If litert-quantizer is not installed, or as `tflite.write`.
    """
    checks.one_of("int4.write", "variant", variant, VARIANTS)
    litert_quantizer.require()
    described = meta.of(model, labels, resize)  # refuses before the work
    content = litert_quantizer.int4_weights(tflite.unfinished(model))
    tflite.check(content, model, variant)
    with files.replacing(path) as partial:
        partial.write_bytes(flatbuffer.finish(content, described))
    return path
