"""What the TFLite converter makes of a model, foretold without converting it: ops and tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from export.quantization.operations import WEIGHTED
from export.quantization.plan import plan

if TYPE_CHECKING:
    import keras

    from export.quantization.operations import Op
    from export.quantization.plan import Plan

# By kind of operation, the ops that TFLite has for it; constants are what they read beside.
_KINDS: dict[str, tuple[str, ...]] = {
    "conv": ("CONV_2D",),
    "transposed": ("TRANSPOSE_CONV",),
    "depthwise": ("DEPTHWISE_CONV_2D",),
    "dense": ("FULLY_CONNECTED",),
    "norm": ("MUL", "ADD"),
    "affine": ("MUL", "ADD"),
    "multiply": ("MUL",),
    "concatenate": ("CONCATENATION",),
    "average": ("AVERAGE_POOL_2D",),
    "softmax": ("SOFTMAX",),
    "sigmoid": ("LOGISTIC",),
    "tanh": ("TANH",),
    "relu": ("RELU",),
    "relu6": ("RELU6",),
    "hard_swish": ("HARD_SWISH",),
    "shifted_relu6": ("ADD",),
    "sixth": ("MUL",),
}
# By class of the layer or operation, where the kind says too little. Nothing is left of the others
# of kind "same", which only act in training.
_CLASSES: dict[str, tuple[str, ...]] = {
    "Add": ("ADD",),
    "Subtract": ("SUB",),
    "Maximum": ("MAXIMUM",),
    "Minimum": ("MINIMUM",),
    "Mean": ("MEAN",),
    "GlobalAveragePooling1D": ("MEAN",),
    "GlobalAveragePooling2D": ("MEAN",),
    "GlobalMaxPooling1D": ("REDUCE_MAX",),
    "GlobalMaxPooling2D": ("REDUCE_MAX",),
    "MaxPooling1D": ("RESHAPE", "MAX_POOL_2D", "RESHAPE"),
    "MaxPooling2D": ("MAX_POOL_2D",),
    "AveragePooling1D": ("RESHAPE", "AVERAGE_POOL_2D", "RESHAPE"),
    "Cropping1D": ("STRIDED_SLICE",),
    "Cropping2D": ("STRIDED_SLICE",),
    "ExpandDims": ("RESHAPE",),
    "Flatten": ("RESHAPE",),
    "Permute": ("TRANSPOSE",),
    "Reshape": ("RESHAPE",),
    "Squeeze": ("RESHAPE",),
    "Transpose": ("TRANSPOSE",),
    "ZeroPadding1D": ("PAD",),
    "ZeroPadding2D": ("PAD",),
    "LeakyReLU": ("LEAKY_RELU",),
    "RReLU": ("LEAKY_RELU",),
    "PReLU": ("PRELU",),
    "MeanImage": ("SUB",),
    "Conv1D": ("RESHAPE", "CONV_2D", "RESHAPE"),
}
_FUNCTIONS = {"gelu": ("GELU",), "leaky_relu": ("LEAKY_RELU",)}
_INTEGERS = {
    "MEAN": 2,
    "REDUCE_MAX": 2,
    "RESIZE_BILINEAR": 2,
    "RESIZE_NEAREST_NEIGHBOR": 2,
    "PAD": 8,
    "RESHAPE": 4,
    "TRANSPOSE": 4,
    "STRIDED_SLICE": 12,
}
_ALONE = frozenset({"norm", "affine"})


@dataclass(frozen=True)
class Constant:
    """Numbers in the file.

    Attributes:
        size: How many.
        kind: "weight", "bias", or "integer", which says how many bytes each takes.
        scales: How many scales it has where it is quantized; 0 for integers.
    """

    size: int
    kind: str
    scales: int = 0


@dataclass(frozen=True)
class Lowered:
    """One op of the TFLite file.

    Attributes:
        layer: The Keras layer that it comes from.
        name: Of TFLite, such as `CONV_2D`; of what there is no rule for, the class in Keras.
        known: Whether there is a rule.
        inputs: Numbers of the activations that it reads.
        output: Number of that which it makes.
        shape: Of the output, the batch of 1 included.
        constants: What else it reads.
    """

    layer: str
    name: str
    known: bool
    inputs: tuple[int, ...]
    output: int
    shape: tuple[int, ...]
    constants: tuple[Constant, ...] = ()


def lower(model: keras.Model) -> list[Lowered]:
    """Returns the ops of the int8 and float files of `model`, in order; tensor 0 is the input.

    Raises:
        UsageError: If it is not functional, with one input and one output.
    """
    return _Lowering(plan(model)).ops


class _Lowering:
    """Follows the operations of a plan; fused ones make the tensor of what they are fused with."""

    def __init__(self, found: Plan) -> None:
        self.found = found
        self.ops: list[Lowered] = []
        self.same = {found.input: found.input}
        for op in found.ops:
            self.add(op)

    def add(self, op: Op) -> None:
        inputs = [self.same[number] for number in op.inputs]
        names, known = self.names(op)
        if not names:
            self.same |= dict.fromkeys(op.outputs, inputs[0])
            return
        shape = (1, *(int(n or 1) for n in op.shape[1:]))
        made = -len(self.ops) - 1  # a number of its own, for what is between two ops
        for position, name in enumerate(names):
            last = position == len(names) - 1
            number = op.outputs[0] if last else made - position
            read = inputs if position == 0 else [made - position + 1]
            constants = self.constants(op, name, position)
            self.ops.append(
                Lowered(op.path, name, known, tuple(read), number, shape, tuple(constants))
            )
        self.same |= {number: number for number in op.outputs}

    def names(self, op: Op) -> tuple[tuple[str, ...], bool]:
        """Returns the ops of an operation, none if it is fused, and whether there is a rule."""
        kind, cls = op.kind, type(op.operation).__name__
        before = next((o for o in self.found.ops if o.outputs == op.inputs), None)
        if before is not None and before.outputs[0] in self.found.inner:
            return (), True  # into the one before
        if kind in _ALONE and self.folded(op):
            return (), True
        if cls == "Rescaling" and not np.any(op.operation.offset):
            return ("MUL",), True
        if kind == "same" and cls == "Flatten" and self.found.follower(op, {"dense"}):
            return (), True  # a dense layer takes its input as a row
        if cls == "ZeroPadding2D" and self.padded(op):
            return (), True
        if kind in WEIGHTED and cls == "Conv1D":
            return _CLASSES[cls], True
        if kind in _KINDS and cls not in _CLASSES:
            return _KINDS[kind], True
        if op.name in _FUNCTIONS:
            return _FUNCTIONS[op.name], True
        if cls in _CLASSES:
            return _CLASSES[cls], True
        if cls == "UpSampling2D":
            kinds = {"nearest": "RESIZE_NEAREST_NEIGHBOR", "bilinear": "RESIZE_BILINEAR"}
            kind = op.operation.interpolation
            return (kinds.get(kind, kind),), kind in kinds
        return ((), True) if kind == "same" else ((op.name or cls,), False)

    def folded(self, op: Op) -> bool:
        """Returns whether one scale and one offset go into the kernel of the layer behind them.

        Where that pads with zeros, the offset cannot.
        """
        follower = self.found.follower(op, {"conv", "depthwise"})
        single = all(constant.size == 1 for k in (0, 1) for constant in self.constants(op, "", k))
        return (
            single
            and follower is not None
            and getattr(follower.operation, "padding", "") == "valid"
        )

    def padded(self, op: Op) -> bool:
        """Returns whether a padding is that of "same" for the layer behind it, and goes there."""
        follower = self.found.follower(op, {"conv", "depthwise"})
        if follower is None or getattr(follower.operation, "padding", "") != "valid":
            return False
        layer, padding = follower.operation, op.operation.padding
        before = [int(n or 0) - sum(pads) for n, pads in zip(op.shape[1:3], padding, strict=True)]
        rows = zip(before, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
        return [tuple(pads) for pads in padding] == [_same(*row) for row in rows]

    def constants(self, op: Op, name: str, position: int) -> Sequence[Constant]:
        if op.kind in WEIGHTED and name not in ("RESHAPE",):
            channels = int(op.shape[-1] or 1)
            kernel = math.prod(_kernel(op).shape)
            found = [Constant(kernel, "weight", channels), Constant(channels, "bias", channels)]
            return [*found, Constant(4, "integer")] if op.kind == "transposed" else found
        if op.kind in _ALONE:
            size = int(op.shape[-1] or 1)
            if type(op.operation).__name__ == "Rescaling":
                size = np.size(getattr(op.operation, ("scale", "offset")[position]))
            return [Constant(size, "weight", 1)]
        if op.kind in ("shifted_relu6", "sixth"):
            return [Constant(1, "weight", 1)]
        if name in ("PRELU", "SUB") and len(op.inputs) == 1:
            return [Constant(math.prod(w.shape), "weight", 1) for w in op.operation.weights]
        return [Constant(_INTEGERS[name], "integer")] if name in _INTEGERS else []


def _same(side: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Returns how much "same" pads before and after a side."""
    reach = (math.ceil(side / stride) - 1) * stride + (kernel - 1) * dilation + 1
    padding = max(reach - side, 0)
    return padding // 2, padding - padding // 2


def _kernel(op: Op) -> Any:
    return getattr(op.operation, f"{op.part}_kernel" if op.part else "kernel")
