"""Post-training int8 by several tools, side by side: bytes, accuracy, agreement, time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from cnnkit import registry
from export import formats
from export import ledger
from export.quantization.sensitivity import decibels

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Row:
    """What one file is worth. What could not be measured is None.

    Attributes:
        name: Who made it.
        size_bytes: Size of the file.
        accuracy: Fraction of right answers; None without labels.
        agreement: Fraction of pictures on which it chooses the class that the Keras model does.
        max_abs: Largest difference of a probability.
        sqnr_db: Signal to quantization noise of the outputs, in decibels.
        latency_ms: Median time for one picture on one thread.
        error: Why there is no file, or none that runs; else empty.
    """

    name: str
    size_bytes: int | None = None
    accuracy: float | None = None
    agreement: float | None = None
    max_abs: float | None = None
    sqnr_db: float | None = None
    latency_ms: float | None = None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray | None,
    calibration: np.ndarray,
    quantizers: Iterable[str] | None = None,
) -> list[Row]:
    """Returns a row for the model, one for its float32 TFLite file, and one for each quantizer.

    A quantizer that fails has its reason in its row; the others go on.

    Args:
        model: Deployable classifier: raw pixels in, probabilities out.
        x: Pictures to judge on, `(n, height, width, channels)`.
        y: Their labels `(n,)`, or None.
        calibration: Pictures that the ranges are learned from, the same for all.
        quantizers: Some of `QUANTIZERS`; all by default.

    Raises:
        UsageError: If a quantizer is unknown.
    """
    from cnnkit.training.predict import predict_keras

    chosen = [
        registry.known("quantizer", name, QUANTIZERS)
        for name in (QUANTIZERS if quantizers is None else quantizers)
    ]
    want = predict_keras(model, x)
    rows = [Row("Keras, float32", accuracy=None if y is None else ledger.accuracy(want, y))]
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(["TFLite, float32", *chosen]):
            path = Path(folder, str(number))
            try:
                module = QUANTIZERS.get(name, _float32)(model, calibration, path)
                rows.append(_judge(name, path, module, x, y, want))
            except Exception as error:  # of any of the tools
                reason = (str(error) or type(error).__name__).splitlines()[0]
                rows.append(Row(name, error=reason.replace(str(path), "its file")))
    return rows


def table(rows: Iterable[Row]) -> str:
    """Returns the rows as a Markdown table."""
    head = (
        "| made by | bytes | accuracy | agreement | largest difference | SQNR dB | ms a picture "
        "| error |"
    )
    lines = [head, f"|{'---|' * 8}"]
    for row in rows:
        cells = (
            _cell(row.size_bytes, ",d"),
            _cell(row.accuracy, ".2%"),
            _cell(row.agreement, ".2%"),
            _cell(row.max_abs, ".1e"),
            _cell(row.sqnr_db, ".1f"),
            _cell(row.latency_ms, ".3f"),
        )
        lines.append(f"| {row.name} | {' | '.join(cells)} | {row.error.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _judge(
    name: str,
    path: Path,
    module: ModuleType,
    x: np.ndarray,
    y: np.ndarray | None,
    want: np.ndarray,
) -> Row:
    predict = module.predictor(path)
    got = predict(x)
    return Row(
        name,
        size_bytes=path.stat().st_size,
        accuracy=None if y is None else ledger.accuracy(got, y),
        agreement=float(np.mean(got.argmax(1) == want.argmax(1))),
        max_abs=float(np.abs(got - want).max()),
        sqnr_db=decibels(np.square(want).sum(), np.square(want - got).sum()),
        latency_ms=ledger.latency_ms(predict, x[0]),
    )


def _float32(model: keras.Model, calibration: np.ndarray, path: Path) -> ModuleType:
    module = formats.module("tflite")
    module.write(model, path)
    return module


def _converter(model: keras.Model, calibration: np.ndarray, path: Path) -> ModuleType:
    module = formats.module("tflite")
    module.write(model, path, variant="int8", calibration=calibration)
    return module


def _onnx_runtime(model: keras.Model, calibration: np.ndarray, path: Path) -> ModuleType:
    module = formats.module("onnx")
    module.write(model, path, variant="int8", calibration=calibration)
    return module


def _litert_quantizer(model: keras.Model, calibration: np.ndarray, path: Path) -> ModuleType:
    from export.formats import flatbuffer
    from export.formats import metadata
    from export.formats import tflite
    from export.quantization import litert_quantizer

    # Not from `tflite.write`: it knows tensors by their names, which are stripped there.
    content = litert_quantizer.static_int8(tflite.unfinished(model), calibration)
    path.write_bytes(flatbuffer.finish(content, metadata.of(model, None, None)))
    return tflite


# Name -> function that writes an int8 file to a path and returns the module that runs it.
QUANTIZERS: dict[str, Callable[[keras.Model, np.ndarray, Path], ModuleType]] = {
    "TFLite converter": _converter,
    "litert-quantizer": _litert_quantizer,
    "ONNX Runtime": _onnx_runtime,
}
