"""Where an int8 runtime rounds: a model as a list of operations, and the tensors with a grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import keras
import numpy as np

from cnnkit.analysis.functional import graph_of
from cnnkit.errors import UsageError
from export.quantization.fake_quant import STEPS
from export.quantization.fake_quant import nudged
from export.quantization.operations import WEIGHTED
from export.quantization.operations import Limits
from export.quantization.operations import Op
from export.quantization.operations import operations

# Raw pixels: the grid of uint8 itself.
PIXELS = (0.0, 255.0)
# Grids that do not depend on the data; on those of the first three, TFLite's kernels insist.
FIXED: dict[str, Limits] = {
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
    "shifted_relu6": (0.0, 6.0),
    "sixth": (0.0, 1.0),
}
# How near to one half a number counts as being it.
_TIE = 0.01
# What a following ReLU is fused with.
_BEFORE_RELU = WEIGHTED | {"norm", "affine", "add", "multiply"}
# Their output has the grid of their input.
_PASSING = frozenset({"same", "average"})
# Their inputs and their output share one grid.
JOINING = frozenset({"concatenate", "maximum"})


@dataclass
class Plan:
    """The operations of a model, in order, and the grids of its tensors.

    Attributes:
        ops: The operations.
        output: Number of the output tensor.
        input: Number of the input tensor.
        grids: By tensor that is rounded, the name of its grid.
        moved: The grids onto which tensors that have another are brought, once for each.
        fixed: By grid that does not depend on data, its range.
        inner: Tensors that exist only inside a fused operation.
        floats: Operations without a rule for int8, with the reason.
    """

    ops: list[Op]
    output: int
    input: int = 0
    grids: dict[int, str] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)
    fixed: dict[str, Limits] = field(default_factory=dict)
    inner: set[int] = field(default_factory=set)
    floats: dict[str, str] = field(default_factory=dict)

    @property
    def learned(self) -> list[str]:
        """The grids whose ranges come from data."""
        return [name for name in dict.fromkeys(self.grids.values()) if name not in self.fixed]

    def readers(self, tensor: int) -> list[Op]:
        return [op for op in self.ops if tensor in op.inputs]

    def follower(self, op: Op, kinds: Iterable[str]) -> Op | None:
        """Returns the only reader of what `op` makes, if it is of one of `kinds`."""
        (tensor, *_) = op.outputs
        found = self.readers(tensor)
        if tensor == self.output or len(found) != 1 or found[0].kind not in kinds:
            return None
        return found[0]


def plan(model: keras.Model, pixels: bool = True) -> Plan:
    """Returns where TFLite rounds when it runs `model` in int8.

    Args:
        model: Functional or built sequential model with one input and one output. Nested models
            are opened.
        pixels: Whether the input is raw pixels, so that its grid is known.

    Raises:
        UsageError: If it is not such a model.
    """
    graph = graph_of(model)
    if graph is None or len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UsageError(
            "Cannot simulate int8 for this model",
            where=model.name,
            expected="a functional or built sequential model with one input and one output",
            received=type(model).__name__
            if graph is None
            else f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs",
        )
    found = Plan(*operations(model))
    _place(found, pixels)
    return found


def _place(found: Plan, pixels: bool) -> None:
    """Names the grid of every tensor that is rounded."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while name in parent:
            name = parent[name]
        return name

    found.grids[found.input] = "input"
    if pixels:
        found.fixed["input"] = PIXELS
    for op in found.ops:
        made = op.outputs[0]
        if _fused(found, op):
            found.inner.add(made)
            continue
        if op.kind in _PASSING:
            found.grids[made] = found.grids[op.inputs[0]]
            continue
        if op.kind == "other":
            name = op.name or type(op.operation).__name__
            found.floats[op.path] = f"no int8 rule for {name}"
        for tensor in op.outputs:
            found.grids[tensor] = op.path
        if limits := op.limits or FIXED.get(op.kind) or _affine_limits(found, op):
            found.fixed[op.path] = limits
        if op.kind in JOINING:
            for tensor in op.inputs:
                name = root(found.grids[tensor])
                # A fixed grid stays: the runtime rounds once more, onto that of the output.
                if name not in found.fixed and name != root(op.path):
                    parent[name] = op.path
    grids = found.grids = {tensor: root(name) for tensor, name in found.grids.items()}
    for op in found.ops:
        if op.kind in JOINING:
            found.moved += [
                grids[op.outputs[0]] for n in op.inputs if grids[n] != grids[op.outputs[0]]
            ]


def _fused(found: Plan, op: Op) -> bool:
    if op.kind in WEIGHTED and found.follower(op, {"norm"}):
        return True
    return op.kind in _BEFORE_RELU and found.follower(op, {"relu", "relu6"}) is not None


def _affine_limits(found: Plan, op: Op) -> Limits | None:
    """Returns the range of pixels that are scaled and shifted: it follows from theirs."""
    limits = found.fixed.get(found.grids[op.inputs[0]]) if op.kind == "affine" else None
    if limits is None:
        return None
    scale, offset = affine(op.operation, 1)
    ends = [scale * end + offset for end in limits]
    low, high = float(np.min(ends)), float(np.max(ends))
    # Pixels from -1 to 1 have zero between two steps, and so every pixel when zero is moved onto
    # a step: which way they are rounded would differ between runtimes. 256 steps have no ties.
    if abs(low / (low - high) * STEPS % 1 - 0.5) < _TIE:
        low, high = low * 256 / STEPS, high * 256 / STEPS
    return nudged(low, high)


def affine(layer: Any, channels: int) -> tuple[Any, Any]:
    """Returns scale and offset of a layer that has one of each for a channel, as they are now."""
    if type(layer).__name__ == "LayerScale":
        scale, offset = np.asarray(layer.gamma, float), np.zeros(1)
    elif type(layer).__name__ == "Rescaling":
        scale, offset = np.asarray(layer.scale, float), np.asarray(layer.offset, float)
    elif type(layer).__name__ == "Normalization":
        deviation = np.maximum(np.sqrt(np.asarray(layer.variance, float)), 1e-7)
        mean = np.asarray(layer.mean, float)
        scale, offset = 1 / deviation, -mean / deviation
        if layer.invert:
            scale, offset = deviation, mean
    else:
        deviation = np.sqrt(np.asarray(layer.moving_variance, float) + layer.epsilon)
        scale = (np.asarray(layer.gamma, float) if layer.scale else 1.0) / deviation
        offset = -np.asarray(layer.moving_mean, float) * scale
        offset = offset + (np.asarray(layer.beta, float) if layer.center else 0.0)
    size = max(channels, scale.size, offset.size)
    return np.broadcast_to(scale.ravel(), size), np.broadcast_to(offset.ravel(), size)
