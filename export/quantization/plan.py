"""Where an int8 runtime rounds: a model as a list of operations, and the tensors with a grid."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import keras
import numpy as np

from cnnkit.errors import UsageError
from export.quantization.fake_quant import STEPS
from export.quantization.fake_quant import nudged

Limits = tuple[float, float]

# Raw pixels: the grid of uint8 itself.
PIXELS = (0.0, 255.0)
# Grids that TFLite's kernels insist on, whatever the data.
FIXED: dict[str, Limits] = {
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}
# How near to one half a number counts as being it.
_TIE = 0.01
# What a following batch normalization is folded into, and a following ReLU fused with.
WEIGHTED = frozenset({"conv", "depthwise", "dense"})
_BEFORE_RELU = WEIGHTED | {"norm", "affine", "add", "multiply"}
# Their output has the grid of their input.
_PASSING = frozenset({"same", "average"})
# Their inputs and their output share one grid.
JOINING = frozenset({"concatenate", "maximum"})

_LAYERS = {
    "Conv1D": "conv",
    "Conv2D": "conv",
    "DepthwiseConv2D": "depthwise",
    "Dense": "dense",
    "BatchNormalization": "norm",
    "Rescaling": "affine",
    "Normalization": "affine",
    "Add": "add",
    "Subtract": "add",
    "Multiply": "multiply",
    "Concatenate": "concatenate",
    "Maximum": "maximum",
    "Minimum": "maximum",
    "AveragePooling1D": "average",
    "AveragePooling2D": "average",
    "GlobalAveragePooling1D": "own",
    "GlobalAveragePooling2D": "own",
    "Mean": "own",
    "Softmax": "softmax",
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "LeakyReLU": "own",
    "PReLU": "own",
    **dict.fromkeys(
        (
            "ActivityRegularization",
            "AlphaDropout",
            "Cropping1D",
            "Cropping2D",
            "Dropout",
            "ExpandDims",
            "Flatten",
            "GaussianDropout",
            "GaussianNoise",
            "GlobalMaxPooling1D",
            "GlobalMaxPooling2D",
            "Identity",
            "MaxPooling1D",
            "MaxPooling2D",
            "Permute",
            "Reshape",
            "SpatialDropout1D",
            "SpatialDropout2D",
            "Squeeze",
            "Transpose",
            "ZeroPadding1D",
            "ZeroPadding2D",
        ),
        "same",
    ),
}
_ACTIVATIONS = {
    "linear": "same",
    "relu": "relu",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "softmax": "softmax",
    "tanh": "tanh",
    "silu": "silu",
    "hard_silu": "hard_swish",
    "leaky_relu": "own",
    "gelu": "own",
}


@dataclass
class Op:
    """One operation of the flat graph.

    Attributes:
        path: Name that is unique in the model, `outer.inner` in a nested one.
        kind: What the rules here and the builder of the twin know it as.
        operation: The Keras layer or operation.
        inputs: Numbers of the tensors that it reads.
        outputs: Numbers of those that it makes.
        shape: Of the first output.
        arguments: From tensors in the order of `inputs` to the arguments of the call, or None
            for one call with all of them.
        part: "depthwise" or "pointwise" for the halves of a separable convolution.
    """

    path: str
    kind: str
    operation: Any
    inputs: list[int]
    outputs: list[int]
    shape: tuple[int | None, ...]
    arguments: Callable[[list[Any]], tuple[Any, Any]] | None = None
    part: str = ""


@dataclass
class Plan:
    """The operations of a model, in order, and the grids of its tensors.

    Attributes:
        ops: The operations.
        input: Number of the input tensor.
        output: Number of the output tensor.
        grids: By tensor that is rounded, the name of its grid.
        moved: The grids onto which tensors that have another are brought, once for each.
        fixed: By grid that does not depend on data, its range.
        inner: Tensors that exist only inside a fused operation.
        floats: Operations without a rule for int8, with the reason.
    """

    ops: list[Op]
    input: int
    output: int
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
    opened = _opened(model)
    if opened is None or len(opened.inputs) != 1 or len(opened.outputs) != 1:
        raise UsageError(
            "Cannot simulate int8 for this model",
            where=model.name,
            expected="a functional or built sequential model with one input and one output",
            received=type(model).__name__
            if opened is None
            else f"{len(opened.inputs)} inputs and {len(opened.outputs)} outputs",
        )
    walk = _Walk()
    (output,) = walk.open(opened, [0], "")
    found = Plan(walk.ops, 0, output)
    _place(found, pixels)
    return found


class _Walk:
    """Lists the operations of a model, nested ones and fused activations apart."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.tensors = 1
        self.paths: dict[str, int] = {}

    def new(self) -> int:
        self.tensors += 1
        return self.tensors - 1

    def open(self, model: Any, given: list[int], prefix: str) -> list[int]:
        known = {id(t): n for t, n in zip(model.inputs, given, strict=True)}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                inputs = [known[id(t)] for t in node.input_tensors]
                path = self._free(prefix + node.operation.name)
                if (nested := _opened(node.operation)) is not None:
                    made = self.open(nested, inputs, f"{path}.")
                else:
                    made = self._add(path, node, inputs)
                known |= zip(map(id, node.output_tensors), made, strict=True)
        return [known[id(t)] for t in model.outputs]

    def _free(self, path: str) -> str:
        count = self.paths[path] = self.paths.get(path, -1) + 1
        return f"{path}.{count}" if count else path

    def _add(self, path: str, node: Any, inputs: list[int]) -> list[int]:
        operation, shape = node.operation, tuple(node.output_tensors[0].shape)
        name = type(operation).__name__
        kind = _kind(operation, len(inputs))

        def op(kind: str, *read: int, suffix: str = "", part: str = "") -> int:
            made = self.new()
            self.ops.append(Op(path + suffix, kind, operation, [*read], [made], shape, None, part))
            return made

        if name == "SeparableConv2D":
            middle = self.new()
            depth = operation.depthwise_kernel.shape[2] * operation.depth_multiplier
            halfway = (*shape[:-1], depth)
            self.ops.append(
                Op(
                    f"{path}.depthwise",
                    "depthwise",
                    operation,
                    inputs,
                    [middle],
                    halfway,
                    None,
                    "depthwise",
                )
            )
            made = op("conv", middle, part="pointwise")
        elif kind == "add" and len(inputs) > 2:  # TFLite adds two at a time in int8.
            made = inputs[0]
            for number, other in enumerate(inputs[1:]):
                last = number == len(inputs) - 2
                made = op("add", made, other, suffix="" if last else f".{number}")
            return [made]
        elif kind in (*WEIGHTED, "activation"):
            made = op(kind, *inputs) if kind in WEIGHTED else inputs[0]
        elif kind in ("relu", "relu6"):
            return [op(kind, *inputs)]
        else:
            outputs = [self.new() for _ in node.output_tensors]
            self.ops.append(Op(path, kind, operation, inputs, outputs, shape, _filler(node)))
            return outputs
        function = getattr(operation, "activation", None)
        if function is None or function is keras.activations.linear:
            return [made]
        kind = _ACTIVATIONS.get(getattr(function, "__name__", ""), "other")
        suffix = "" if kind == "activation" else ".activation"
        if name == "Activation":
            suffix = ""
        if kind == "silu":
            gate = op("sigmoid", made, suffix=f"{suffix}.sigmoid")
            return [op("multiply", made, gate, suffix=suffix)]
        return [op(kind, made, suffix=suffix)]


def _kind(operation: Any, inputs: int) -> str:
    name = type(operation).__name__
    own = type(operation).__module__.split(".")[0] == "keras"
    if not own:
        return "other"
    if name == "Activation":
        return "activation"
    if name == "ReLU":
        plain = not operation.negative_slope and not operation.threshold
        limit = operation.max_value if plain else -1
        return {None: "relu", 6: "relu6"}.get(limit, "own")
    if name in ("Conv1D", "Conv2D") and operation.data_format != "channels_last":
        return "other"
    if name == "BatchNormalization" and operation.axis not in (-1, 3):
        return "other"
    if name == "UpSampling2D":
        return "same" if operation.interpolation == "nearest" else "own"
    kind = _LAYERS.get(name, "other")
    if kind in ("add", "multiply", "concatenate", "maximum") and inputs < 2:
        return "own"  # with a constant
    return kind


def _filler(node: Any) -> Callable[[list[Any]], tuple[Any, Any]]:
    old = node.input_tensors
    return lambda new: node.arguments.fill_in({id(a): b for a, b in zip(old, new, strict=True)})


def _opened(model: Any) -> Any:
    graph = getattr(model, "_functional", None) or model
    return graph if hasattr(graph, "_nodes_by_depth") else None


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
            found.floats[op.path] = f"no int8 rule for {type(op.operation).__name__}"
        for tensor in op.outputs:
            found.grids[tensor] = op.path
        if limits := FIXED.get(op.kind) or _affine_limits(found, op):
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
    """Returns scale and offset of a Rescaling, a Normalization or a trained BatchNormalization."""
    if type(layer).__name__ == "Rescaling":
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
