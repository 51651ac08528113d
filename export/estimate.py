"""Bytes of a file and of the memory to run it, foretold from a model that need not be trained.

Constants, scales and activations are counted. What a flatbuffer and an interpreter add to them is
in proportion to the tensors and ops; the factors are least squares over files and arenas of
networks from LeNet-5 to SqueezeNet, which `tests/export/test_estimate.py` holds them against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

    from export.lowering import Lowered

# Bytes of a number in the file, by the kind of file.
_BYTES = {
    "float32": {"weight": 4, "bias": 4, "integer": 4},
    "float16": {"weight": 2, "bias": 2, "integer": 4},
    "int8": {"weight": 1, "bias": 4, "integer": 4},
}
# Bytes of the flatbuffer besides: for the file, and for each tensor.
_FILE = {"float32": (880, 51), "float16": (880, 51), "int8": (1000, 74)}
_SCALE, _ZERO_POINT = 4, 8
# An arena holds tensors on multiples of 16 bytes. What TFLite Micro keeps there for good: for
# itself, for each tensor, for each op, and for each channel of a kernel.
_ALIGNMENT = 16
_ARENA, _ARENA_TENSOR, _ARENA_OP, _ARENA_CHANNEL = 1004, 24, 139, 8
# What it needs for each tensor while it plans where activations go, in their place.
_PLANNER = 57
# Formats whose file is foretold, and what is in it.
VARIANTS = {
    "tflite": "float32",
    "tflite-fp16": "float16",
    "tflite-int8": "int8",
    "tflite-mediapipe": "int8",
    "micro": "int8",
}


@dataclass(frozen=True)
class Estimate:
    """What a file would cost.

    Attributes:
        ops: The ops of TFLite, in order.
        size_bytes: Of the file.
        ram_bytes: For an int8 file, the arena in TFLite Micro; else the activations alone.
    """

    ops: tuple[Lowered, ...]
    size_bytes: int
    ram_bytes: int


def estimate(model: keras.Model, variant: str = "int8") -> Estimate:
    """Returns what the TFLite file of `model` would cost.

    Args:
        model: From raw pixels to probabilities, trained or not.
        variant: "float32", "float16" or "int8".

    Raises:
        UsageError: If the model is not functional, with one input and one output.
    """
    from export.lowering import lower

    ops = lower(model)
    shape = (1, *model.input_shape[1:])
    return Estimate(tuple(ops), _size(ops, variant), _ram(ops, shape, variant))


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


def _size(ops: Sequence[Lowered], variant: str) -> int:
    constants = [constant for op in ops for constant in op.constants]
    tensors = 1 + len(ops) + len(constants)
    fixed, each = _FILE[variant]
    if variant == "float16":  # each is widened by an op, to a tensor, before it is read
        tensors += sum(constant.kind != "integer" for constant in constants)
    total = fixed + each * tensors
    total += sum(_BYTES[variant][constant.kind] * constant.size for constant in constants)
    if variant == "int8":
        total += sum(_SCALE * constant.scales for constant in constants)
        # Zero points that are the same are stored once: of weights, all are 0.
        total += sum(_ZERO_POINT * n for n in {constant.scales for constant in constants})
        total += (_SCALE + _ZERO_POINT) * (1 + len(ops))
    return total


def _ram(ops: Sequence[Lowered], shape: tuple[int, ...], variant: str) -> int:
    peak = planned_bytes(ops, shape, 1 if variant == "int8" else 4)
    if variant != "int8":
        return peak
    constants = [constant for op in ops for constant in op.constants]
    tensors = 1 + len(ops) + len(constants)
    channels = sum(constant.scales for constant in constants if constant.kind == "bias")
    kept = _ARENA + _ARENA_TENSOR * tensors + _ARENA_OP * len(ops) + _ARENA_CHANNEL * channels
    return kept + max(peak, _PLANNER * tensors)
