"""Bytes of a file and of the memory to run it, foretold from a model that need not be trained.

Numbers, scales, labels and activations are counted. What the file and an interpreter add to them
is in proportion to ops and tensors; the factors are least squares over files and arenas of
networks from LeNet-5 to SqueezeNet, which `tests/export/test_estimate.py` holds them against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from export.formats import metadata
from export.formats import signatures

if TYPE_CHECKING:
    import keras

    from export.formats.metadata import Metadata
    from export.lowering import Lowered


@dataclass(frozen=True)
class _Layout:
    """Bytes of what a format stores, and those that it adds.

    Attributes:
        kernel: Of a weight of a convolution or a dense layer.
        vector: Of another weight.
        bias: Of a bias.
        integer: Of a number in a shape or an axis.
        channel: Of the scales of a kernel's channel, zero points that are stored with them too.
        zero: Of a zero point, of which equal lists are stored once.
        file: Added for the file.
        op: Added for each op.
        layer: Added for each op that has a kernel.
        kind: Added for each kind of op.
        activation: Of an activation, in memory.
        least: Numbers that a kernel has at least; smaller ones are stored as vectors.
    """

    kernel: float
    vector: int
    bias: int
    integer: int
    channel: int
    zero: int
    file: int
    op: int
    layer: int
    kind: int
    activation: int
    least: int = 0


# kernel, vector, bias, integer, channel, zero; file, op, layer, kind; activation
_LAYOUTS = {
    "tflite": _Layout(4, 4, 4, 4, 0, 0, 0, 18, 211, 98, 4),
    "tflite-fp16": _Layout(2, 2, 2, 4, 0, 0, 0, 20, 307, 104, 4),
    "tflite-dynamic": _Layout(1, 4, 4, 4, 4, 8, 0, 18, 211, 98, 4, least=1024),
    "tflite-int8": _Layout(1, 1, 4, 4, 8, 8, 0, 23, 330, 134, 1),
    "tflite-int16x8": _Layout(1, 2, 8, 4, 8, 8, 0, 6, 336, 152, 2),
    "tflite-int4": _Layout(0.5, 4, 4, 4, 4, 8, 0, 0, 250, 124, 4),
    "tflite-mediapipe": _Layout(1, 1, 4, 4, 8, 8, 1957, 79, 143, 47, 1),
    "micro": _Layout(1, 1, 4, 4, 8, 8, 0, 50, 273, 102, 1),
    "onnx": _Layout(4, 4, 4, 8, 0, 0, 0, 10, 250, 0, 4),
    "onnx-int8": _Layout(1, 4, 4, 8, 13, 0, 182, 157, 257, 0, 1),
}
_KERNELS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
# Bytes of a weight where LiteRT has no kernel for int4.
_LEAST = {"DEPTHWISE_CONV_2D": 1, "TRANSPOSE_CONV": 1}
# Of a SavedModel: what the graph adds for itself, for each op and for each variable; and what the
# signatures for picture files add, by how they resize, and for each variable that they pass on.
_GRAPH, _GRAPH_OP, _GRAPH_VARIABLE = 5594, 807, 2094
_SIGNATURES = {"squash": 59561, "crop": 61000, "letterbox": 64400}
_SIGNATURES_VARIABLE = 1726
# An arena holds tensors on multiples of 16 bytes. What TFLite Micro keeps there for good: for
# itself, for each tensor, for each op, and for each channel of a kernel.
_ALIGNMENT = 16
_ARENA, _ARENA_TENSOR, _ARENA_OP, _ARENA_CHANNEL = 1004, 24, 139, 8
# What it needs for each tensor while it plans where activations go, in their place.
_PLANNER = 57


@dataclass(frozen=True)
class Estimate:
    """What a file would cost.

    Attributes:
        ops: The ops of TFLite, in order.
        size_bytes: Of the file, or of all files of a SavedModel.
        ram_bytes: For TFLite Micro, the arena; else the activations alone.
    """

    ops: tuple[Lowered, ...]
    size_bytes: int
    ram_bytes: int


def estimate(
    model: keras.Model,
    name: str,
    labels: Sequence[str] | None = None,
    resize: str | None = "letterbox",
) -> Estimate:
    """Returns what the file of `model` in the format called `name` would cost.

    Args:
        model: From raw pixels to probabilities, trained or not.
        name: Of a format.
        labels: Class names, which are stored in the file.
        resize: The resize rule, which is stored too.

    Raises:
        UsageError: If the model is not functional, with one input and one output.
    """
    from export.lowering import lower

    ops = lower(model)
    told = metadata.of(model, labels, resize)
    size = len(told.dumps().encode())
    if name in _LAYOUTS:
        size += _size(ops, name)
        if name == "tflite-mediapipe":
            size += sum(len(f"{metadata.line(label)}\n".encode()) for label in labels or ())
    else:
        size += _saved_model(model, len(ops), told)
    return Estimate(tuple(ops), size, _ram(ops, (1, *told.input_shape), name))


def planned_bytes(ops: Sequence[Lowered], shape: tuple[int, ...], itemsize: int) -> int:
    """Returns the bytes of activations as TFLite Micro lays them out; fused ones have none.

    The largest comes first, of equal ones the last, each at the first place that is free while it
    is alive. That may take more than the most bytes that are alive at once.

    Args:
        ops: In order.
        shape: Of the input, tensor 0.
        itemsize: Bytes of one number.

    Reference:
        `GreedyMemoryPlanner` of TFLite Micro, https://github.com/tensorflow/tflite-micro/blob/main/
        tensorflow/lite/micro/memory_planner/greedy_memory_planner.cc. Differs: no scratch buffers.
    """
    last = {number: k for k, op in enumerate(ops) for number in (*op.inputs, op.output)}
    last[ops[-1].output] = len(ops)
    buffers = [(math.prod(shape), 0, last[0])]
    buffers += [(math.prod(op.shape), k, last[op.output]) for k, op in enumerate(ops)]
    buffers.reverse()
    placed: list[tuple[int, int, int, int]] = []  # from, to, first op, last op
    for numbers, first, end in sorted(buffers, key=lambda buffer: -buffer[0]):
        size, offset = _aligned(numbers * itemsize), 0
        for begin, stop, other_first, other_end in sorted(placed):
            if other_first <= end and first <= other_end:
                if begin - offset >= size:
                    break
                offset = max(offset, stop)
        placed.append((offset, offset + size, first, end))
    return max(stop for _, stop, _, _ in placed)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _size(ops: Sequence[Lowered], name: str) -> int:
    """Returns the bytes of a file without its metadata."""
    layout = _LAYOUTS[name]
    each = {"weight": layout.vector, "bias": layout.bias, "integer": layout.integer}
    kernels = [op for op in ops if op.name in _KERNELS]
    size: float = layout.file + layout.op * len(ops) + layout.layer * len(kernels)
    size += layout.kind * len({op.name for op in ops})
    lists = set()
    for op in ops:
        for constant in op.constants:
            if op.name not in _KERNELS or constant.kind != "weight" or constant.size < layout.least:
                size += each[constant.kind] * constant.size
                continue
            size += max(layout.kernel, _LEAST.get(op.name, 0)) * constant.size
            size += layout.channel * constant.scales
            lists.add(constant.scales)
    return math.ceil(size) + layout.zero * sum(lists)


def _saved_model(model: keras.Model, ops: int, told: Metadata) -> int:
    """Returns the bytes of the files of a SavedModel without its metadata."""
    variables = len(model.weights)
    size = 4 * model.count_params() + _GRAPH + _GRAPH_OP * ops + _GRAPH_VARIABLE * variables
    if told.resize and signatures.of(told, model.output_shape):
        size += _SIGNATURES[told.resize] + _SIGNATURES_VARIABLE * variables
        size += sum(len(label.encode()) for label in told.labels or ())
    return size


def _ram(ops: Sequence[Lowered], shape: tuple[int, ...], name: str) -> int:
    peak = planned_bytes(ops, shape, _LAYOUTS[name].activation if name in _LAYOUTS else 4)
    if name != "micro":
        return peak
    constants = [constant for op in ops for constant in op.constants]
    tensors = 1 + len(ops) + len(constants)
    channels = sum(constant.scales for constant in constants if constant.kind == "bias")
    kept = _ARENA + _ARENA_TENSOR * tensors + _ARENA_OP * len(ops) + _ARENA_CHANNEL * channels
    return kept + max(peak, _PLANNER * tensors)
