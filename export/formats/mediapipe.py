"""The file for phones that MediaPipe's ImageClassifier takes as it is: int8, RGB, with labels.

LiteRT runs it too, and gives the answers; `confirm` asks MediaPipe where it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from cnnkit import checks
from cnnkit import files
from cnnkit.errors import UsageError
from export.formats import flatbuffer
from export.formats import metadata as meta
from export.formats import tflite
from export.formats import tflite_metadata
from export.formats.metadata import INPUT
from export.formats.metadata import OUTPUT
from export.formats.probe import Probe

if TYPE_CHECKING:
    import keras

    from export.quantization.ranges import Ranges

VARIANTS = ("int8",)
QUICK = tflite.QUICK
# The Python that has MediaPipe, if it is another one than this.
PYTHON = "CNNKIT_MEDIAPIPE"
# Luma as Pillow's "L" computes it, in 184ths: at most 0.04 of a level from its 0.299, 0.587 and
# 0.114 for any colour, and exact for grey, because the three sum to one.
LUMA = (55, 108, 21)
# MediaPipe brings kernels of its own: they may round an intermediate value otherwise.
_DIFFERENCE = 0.02
# Of as many pictures MediaPipe is asked as have so many bytes in RGB.
_BYTES = 2**26
_PROBE = Probe(Path(__file__).with_name("mediapipe_probe.py"), "MediaPipe cannot run this file")

input_shape = tflite.input_shape
metadata = tflite.metadata


def write(
    model: keras.Model,
    path: Path,
    *,
    variant: str = "int8",
    calibration: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    resize: str | None = None,
    ranges: Ranges | None = None,
) -> Path:
    """Writes `model` as the int8 file of `tflite.write` that takes RGB, and returns `path`.

    A grey model gets one more convolution in front, which weighs the colours.

    Args:
        model: One input, one output, pictures of 1 or 3 channels.
        path: Where the file goes; it appears there whole or not at all.
        variant: "int8".
        calibration: Raw pixels from which the ranges of activations are learned.
        labels: Class names, which MediaPipe gives back: one a line, see `metadata.line`.
        resize: Name of the resize rule, stored in the file.
        ranges: Of activations, as quantization-aware training learned them.

    Raises:
        UsageError: If the model does not take pictures of 1 or 3 channels, or two classes have the
            same line; or as `tflite.write`.
    """
    checks.one_of("mediapipe.write", "variant", variant, VARIANTS)
    given = meta.of(model, labels, resize)
    shape = given.input_shape
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise UsageError(
            "MediaPipe takes pictures only",
            where=model.name,
            expected="an input of (height, width, 1 or 3)",
            received=shape,
            todo="leave tflite-mediapipe out",
        )
    names = [meta.line(label) for label in labels or ()]
    if len(set(names)) < len(set(labels or ())):
        raise UsageError(
            "MediaPipe could not tell the classes apart",
            where=model.name,
            expected="names that differ in more than line breaks and other control characters",
            received=[label for label in labels or () if names.count(meta.line(label)) > 1],
            todo="rename some of them",
        )
    with tempfile.TemporaryDirectory() as folder:
        plain = tflite.write(
            model,
            Path(folder, "int8.tflite"),
            variant=variant,
            calibration=calibration,
            labels=labels,
            resize=resize,
            ranges=ranges,
        )
        content, described = plain.read_bytes(), tflite.metadata(plain) or given
    if shape[-1] == 1:
        content = flatbuffer.pack(_in_colour(flatbuffer.parse(content)))
    told = tflite_metadata.build(
        path.stem, described.version, INPUT, OUTPUT, labelled=labels is not None
    )
    content = flatbuffer.finish(
        content,
        replace(described, input_shape=(*shape[:2], 3)),
        {tflite_metadata.KEY: told},
    )
    if labels is not None:
        lines = "".join(f"{name}\n" for name in names)
        content = tflite_metadata.with_files(content, {tflite_metadata.LABELS: lines})
    with files.replacing(path) as partial:
        partial.write_bytes(content)
    return path


def notes(path: Path) -> list[str]:
    """Returns what the user should know: as `tflite.notes`, and which names MediaPipe changes."""
    described = metadata(path)
    changed = [
        f"{label!r} is {name!r}"
        for label in (described and described.labels) or ()
        if (name := meta.line(label)) != label
    ]
    told = [f"names that MediaPipe has on one line: {', '.join(changed)}"] if changed else []
    return tflite.notes(path) + told


def predictor(path: Path, *, threads: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from pictures, grey or RGB, to outputs; see `tflite.predictor`."""
    predict = tflite.predictor(path, threads=threads)
    return lambda x: predict(_rgb(x))


def run(path: Path, x: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Returns the outputs for `x`; see `predictor`."""
    return predictor(path, threads=threads)(x)


def confirm(path: Path, x: np.ndarray, got: np.ndarray) -> dict[str, Any]:
    """Asks MediaPipe for the same pictures, and returns its opinion; see `python`.

    Args:
        path: The file.
        x: Raw pixels, grey or RGB, `(n, height, width, channels)`; of many large pictures, the
            first are taken.
        got: What LiteRT gives for them.

    Raises:
        UsageError: If MediaPipe cannot run it, or gives other scores or names.
    """
    interpreter = python()
    if interpreter is None:
        note = "run in LiteRT: MediaPipe is not installed (`pip install mediapipe`)"
        return {"opinions": (note,)}
    chosen = max(1, _BYTES // (3 * x[0, ..., 0].size))
    x, got = x[:chosen], got[:chosen]
    found = classify(path, x, interpreter)
    described = metadata(path)
    wanted = [meta.line(label) for label in (described and described.labels) or ()]
    if wanted and found.labels != wanted:
        raise UsageError(
            "MediaPipe names the classes otherwise",
            where=path,
            expected=wanted,
            received=found.labels,
        )
    difference = float(np.abs(found.scores - got).max())
    if not difference <= _DIFFERENCE:
        raise UsageError(
            "MediaPipe and LiteRT do not agree",
            where=path,
            expected=f"scores within {_DIFFERENCE:g}",
            received=f"a difference of {difference:.2g}",
        )
    same = int((found.first == got.argmax(1)).sum())
    note = (
        f"run in MediaPipe {found.version} too: the class of LiteRT on {same} of {len(x)} "
        f"pictures, the largest difference of a score is {difference:.2g}"
    )
    return {"opinions": (note,)}


@dataclass(frozen=True)
class Found:
    """What MediaPipe's ImageClassifier says of pictures.

    Attributes:
        scores: `(n, classes)`, in the order of the model's outputs.
        first: Index of the class that it puts first, for each picture.
        labels: Class names in the order of the outputs.
        version: Of MediaPipe.
    """

    scores: np.ndarray
    first: np.ndarray
    labels: list[str]
    version: str


def python() -> str | None:
    """Returns the Python that has MediaPipe: `CNNKIT_MEDIAPIPE`, else this one; None if none.

    Raises:
        UsageError: If `CNNKIT_MEDIAPIPE` is not a program.
    """
    if given := os.environ.get(PYTHON):
        if shutil.which(given):
            return given
        raise UsageError(
            "No such program",
            where=given,
            todo=f"`{PYTHON}` must name a Python in which `import mediapipe` works",
        )
    return sys.executable if importlib.util.find_spec("mediapipe") else None


def classify(path: Path, x: np.ndarray, interpreter: str) -> Found:
    """Returns what MediaPipe's ImageClassifier says of pictures, in a process of its own.

    Args:
        path: The file.
        x: Raw pixels, grey or RGB, `(n, height, width, channels)`.
        interpreter: A Python that can import MediaPipe.

    Raises:
        UsageError: If it cannot run the file.
    """
    scores, printed = _PROBE.outputs(path, _rgb(np.asarray(x, np.uint8)), python=interpreter)
    told = json.loads(printed.splitlines()[-1])
    return Found(scores, np.array(told["first"]), told["labels"], told["version"])


def _rgb(x: np.ndarray) -> np.ndarray:
    return np.repeat(x, 3, -1) if x.shape[-1] == 1 else x


def _in_colour(model: Any) -> Any:
    """Puts a convolution from RGB to grey in front of the graph: int8, as TFLite Micro has it."""
    from ai_edge_litert import schema_py_generated as schema

    def tensor(
        kind: str, shape: Sequence[int], scale: float, zero: int = 0, data: bytes = b""
    ) -> int:
        made, buffer = schema.TensorT(), schema.BufferT()
        made.type, made.shape = getattr(schema.TensorType, kind), np.array(shape, np.int32)
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = np.array([scale], np.float32)
        made.quantization.zeroPoint = np.array([zero], np.int64)
        if data:
            buffer.data = np.frombuffer(data, np.uint8)
        made.buffer = len(model.buffers)
        model.buffers.append(buffer)
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(kind: str, inputs: list[int], output: int) -> Any:
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        op.opcodeIndex, op.inputs, op.outputs = len(model.operatorCodes), inputs, [output]
        model.operatorCodes.append(code)
        return op

    (graph,) = model.subgraphs
    (grey,) = graph.inputs
    taken, step = graph.tensors[grey], 1 / sum(LUMA)
    taken.type, taken.quantization.zeroPoint = schema.TensorType.INT8, np.array([-128], np.int64)
    shape = (*taken.shape[:3], 3)
    pixels = tensor("UINT8", shape, 1.0)
    colour = tensor("INT8", shape, 1.0, -128)
    weights = tensor("INT8", (1, 1, 1, 3), step, data=bytes(LUMA))
    bias = tensor("INT32", (1,), step, data=bytes(4))
    cast = operator("QUANTIZE", [pixels], colour)
    weigh = operator("CONV_2D", [colour, weights, bias], grey)
    weigh.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    weigh.builtinOptions = schema.Conv2DOptionsT()
    weigh.builtinOptions.padding = schema.Padding.VALID
    weigh.builtinOptions.strideH = weigh.builtinOptions.strideW = 1
    graph.operators[:0] = [cast, weigh]
    graph.inputs = [pixels]
    for signature in model.signatureDefs:
        signature.inputs[0].tensorIndex = pixels
    return model
