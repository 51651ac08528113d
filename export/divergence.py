"""Which layer of a file first departs from the model, and how far.

The model is converted once more to float32, which leaves the names of layers in the file. Its ops
are brought in line with those of the artifact by their kind and shape, never by their values, which
are what is in doubt, and each tensor is held against its like. A tensor there is what the kernels
give: after batch normalization and activation where the converter has fused them.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from export.formats import Format

if TYPE_CHECKING:
    import keras

# Pictures that are run; the noise of a layer is a sum over all of its values.
PICTURES = 8
# These bring values from one kind of number to another, and compute nothing.
_CASTS = frozenset({"QUANTIZE", "DEQUANTIZE", "QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Row:
    """What the file makes of one layer.

    Attributes:
        layer: Name of the Keras layer.
        op: Kind of op in the file.
        sqnr_db: Signal to noise against the float32 file; minus infinity for NaN or infinity, and
            for any value where the float32 file has nothing but zeros.
        max_abs: Largest difference of a value.
    """

    layer: str
    op: str
    sqnr_db: float
    max_abs: float

    def __str__(self) -> str:
        far = (
            f"{self.sqnr_db:.1f} dB, largest difference {self.max_abs:.2g}"
            if math.isfinite(self.sqnr_db)
            else "no difference"
            if self.sqnr_db > 0
            else "NaN or infinity"
            if math.isinf(self.max_abs)
            else f"{self.max_abs:.2g} where the model has nothing but zeros"
        )
        return f"{self.layer} ({self.op}): {far}"


@dataclass(frozen=True)
class Trace:
    """The layers of a file against those of its model, in order of computation.

    Attributes:
        rows: One for each op that both have.
        strange: Which layer with weights has no op in the file, if there is one; else empty.
    """

    rows: list[Row]
    strange: str = ""

    def told(self, least_db: float) -> str:
        """Returns the first layer below `least_db`, else the lowest one, in half a sentence."""
        if self.strange:
            return f"its ops are not the model's: {self.strange}"
        first = next((row for row in self.rows if row.sqnr_db < least_db), None)
        if first is not None:
            return f"first departs at layer {first}, limit {least_db:g} dB"
        lowest = min(self.rows, key=lambda row: row.sqnr_db)
        return f"no layer is below {least_db:g} dB, the lowest is {lowest}"


@dataclass(frozen=True)
class _Step:
    """One op: its kind, the converter's name of its output, and the output's values."""

    op: str
    name: str
    values: np.ndarray

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        return self.op, self.values.shape[1:]


def missing(row: Format) -> str:
    """Returns why the layers of a format cannot be looked at, or an empty string."""
    if row.module in _READERS:
        return ""
    return f"{row.name} runs whole, in a process of its own: its layers cannot be looked at"


def trace(row: Format, path: Path, model: keras.Model, x: np.ndarray) -> Trace:
    """Runs a file op by op beside a float32 file of `model`.

    TFLite files run without a delegate, which keeps no tensors between its ops.

    Args:
        row: The format, one for which `missing` has nothing to say.
        path: The file.
        model: What it was made from.
        x: Raw pixels; the first few are run.
    """
    from export.formats import tflite

    unfinished, steps_of = _READERS[row.module]
    x = x[:PICTURES]
    want = steps_of(unfinished(model), x)
    got = steps_of(path.read_bytes(), _fitting(row, x))
    pairs = difflib.SequenceMatcher(
        None, [step.key for step in want], [step.key for step in got], autojunk=False
    ).get_matching_blocks()
    couples = [(want[a + k], got[b + k]) for a, b, size in pairs for k in range(size)]
    last = want[-1]

    def layer(step: _Step) -> str:
        # The converter names the last tensor after the signature.
        return model.layers[-1].name if step is last else tflite.layer_of(model, step.name)

    rows = [Row(layer(w), g.op, *_distance(w.values, g.values)) for w, g in couples]
    matched = {id(w) for w, _ in couples}
    lost = [step for step in want if step.op in _WEIGHTED and id(step) not in matched]
    return Trace(rows, _strange(lost[0], layer(lost[0])) if lost else "")


def _strange(lost: _Step, layer: str) -> str:
    op, shape = lost.key
    return f"none is the {op} that gives {shape} for layer {layer}"


def _distance(want: np.ndarray, got: np.ndarray) -> tuple[float, float]:
    from export.quantization.sensitivity import decibels

    if not np.isfinite(got).all():
        return -math.inf, math.inf
    noise = np.square(got - want).sum()
    # A layer that is silent on these pictures has no signal: only noise can be wrong there.
    silent = noise > 0 and not want.any()
    return (-math.inf if silent else decibels(np.square(want).sum(), noise)), float(
        np.abs(got - want).max()
    )


def _fitting(row: Format, x: np.ndarray) -> np.ndarray:
    """Returns the pictures as the file of this format takes them."""
    return np.repeat(x, 3, -1) if row.module == "mediapipe" and x.shape[-1] == 1 else x


def _tflite_bytes(model: keras.Model) -> bytes:
    from export.formats import tflite

    return tflite.unfinished(model)


def _tflite_steps(content: bytes, x: np.ndarray) -> list[_Step]:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.interpreter import OpResolverType

    from export.formats import flatbuffer
    from export.formats import tflite

    runner = Interpreter(
        model_content=content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    runner.allocate_tensors()
    (graph,) = flatbuffer.parse(content).subgraphs
    made = [op.outputs[0] for op in graph.operators]
    details = {one["index"]: one for one in runner.get_tensor_details()}
    (given,) = runner.get_input_details()
    seen: dict[int, list[np.ndarray]] = {index: [] for index in made}
    for picture in x:
        runner.set_tensor(given["index"], tflite.quantized(picture[None], given))
        runner.invoke()
        for index in made:
            seen[index].append(tflite.dequantized(runner.get_tensor(index), details[index])[0])
    return [
        _Step(op, (graph.tensors[index].name or b"").decode(), np.stack(seen[index]))
        for op, index in zip(flatbuffer.ops(content), made, strict=True)
        if op not in _CASTS
    ]


def _onnx_bytes(model: keras.Model) -> bytes:
    from export.formats import onnx

    return onnx.unfinished(model)


def _onnx_steps(content: bytes, x: np.ndarray) -> list[_Step]:
    import onnx
    import onnxruntime

    proto = onnx.load_from_string(content)
    graph = proto.graph
    nodes = [node for node in graph.node if node.op_type not in _CASTS]
    known = {value.name for value in graph.output}
    new = [node.output[0] for node in nodes if node.output[0] not in known]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    runner = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [node.output[0] for node in nodes]
    values = runner.run(names, {runner.get_inputs()[0].name: x.astype(np.float32)})
    sums = {name for node in nodes if node.op_type == "MatMul" for name in node.output}
    return [
        # What a Gemm computes is, before it is quantized, a MatMul and an Add.
        _Step(
            "Gemm" if node.op_type == "Add" and sums.intersection(node.input) else node.op_type,
            node.name or node.output[0],
            np.asarray(value, np.float64),
        )
        for node, value in zip(nodes, values, strict=True)
        if value.dtype.kind == "f" and value.shape[:1] == x.shape[:1]
    ]


_WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "Conv", "Gemm"})
# Module of the format -> the model's float32 file with the names of layers; its ops with values.
_Reader = tuple[Callable[[Any], bytes], Callable[[bytes, np.ndarray], list[_Step]]]
_TFLITE: _Reader = (_tflite_bytes, _tflite_steps)
_READERS: dict[str, _Reader] = {
    "tflite": _TFLITE,
    "int4": _TFLITE,
    "mediapipe": _TFLITE,
    "micro": _TFLITE,
    "onnx": (_onnx_bytes, _onnx_steps),
}
