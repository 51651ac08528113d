"""A model as a flat list of the operations that an int8 runtime knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from cnnkit.analysis.functional import graph_of
from cnnkit.analysis.functional import nodes

Limits = tuple[float, float]

# Operations with a kernel.
WEIGHTED = frozenset({"conv", "transposed", "depthwise", "dense"})
_LAYERS = {
    "Conv1D": "conv",
    "Conv2D": "conv",
    "Conv2DTranspose": "transposed",
    "DepthwiseConv2D": "depthwise",
    "Dense": "dense",
    "BatchNormalization": "norm",
    "LayerScale": "norm",
    "Rescaling": "affine",
    "Normalization": "affine",
    "Add": "add",
    "Subtract": "add",
    "CustomScaleLayer": "scaled_add",
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
    "SeparableConv2D": "separable",
    "Activation": "activation",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "HardSigmoid": "hard_sigmoid",
    "Tanh": "tanh",
    "LeakyReLU": "own",
    "PReLU": "own",
    "cnnkit>MeanImage": "own",
    "cnnkit>RReLU": "own",
    **dict.fromkeys(
        (
            "ActivityRegularization",
            "AlphaDropout",
            "ConvertToTensor",
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
    "NoneType": "same",
    "linear": "same",
    "relu": "relu",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "softmax": "softmax",
    "tanh": "tanh",
    "silu": "silu",
    "hard_silu": "hard_swish",
    "hard_sigmoid": "hard_sigmoid",
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
        limits: The range of its output, if it says itself where that ends.
        name: What it is called if there is no rule for it.
    """

    path: str
    kind: str
    operation: Any
    inputs: list[int]
    outputs: list[int]
    shape: tuple[int | None, ...]
    arguments: Callable[[list[Any]], tuple[Any, Any]] | None = None
    part: str = ""
    limits: Limits | None = None
    name: str = ""


def operations(model: keras.Model) -> tuple[list[Op], int]:
    """Returns the operations of a functional model in order, and the number of its output.

    Tensor 0 is the input. Nested models are opened, activations inside of layers taken out.
    """
    walk = _Walk()
    (output,) = walk.open(graph_of(model), [0], "")
    return walk.ops, output


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
        for node in nodes(model):
            if node.is_input:
                continue
            inputs = [known[id(t)] for t in node.input_tensors]
            path = self._free(prefix + node.operation.name)
            if (nested := graph_of(node.operation)) is not None:
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
        kind = _kind(operation, len(inputs))
        if type(operation).__name__ == "ConvertToTensor":  # Of what is one already.
            return inputs

        def op(kind: str, *read: int, suffix: str = "", **options: Any) -> int:
            made = self.new()
            options = {"shape": shape, **options}
            self.ops.append(Op(path + suffix, kind, operation, [*read], [made], **options))
            return made

        if kind == "separable":
            depth = operation.depthwise_kernel.shape[2] * operation.depth_multiplier
            halfway = {"shape": (*shape[:-1], depth), "part": "depthwise"}
            middle = op("depthwise", *inputs, suffix=".depthwise", **halfway)
            made = op("conv", middle, part="pointwise")
        elif kind in WEIGHTED:
            made = op(kind, *inputs)
        elif kind == "activation":
            return [self._activated(op, operation.activation, inputs[0])]
        elif kind in ("relu", "relu6", "silu", "hard_sigmoid"):
            return [self._activated(op, getattr(keras.activations, kind), inputs[0])]
        elif kind == "clipped":  # by the end of its range
            return [op("relu", *inputs, limits=(0.0, float(operation.max_value)))]
        elif kind == "scaled_add":  # of InceptionResNetV2, whose branches count for a part
            scale = keras.layers.Rescaling(operation.scale)
            branch = self.new()
            self.ops.append(Op(f"{path}.scaled", "affine", scale, inputs[1:], [branch], shape))
            return [op("add", inputs[0], branch)]
        elif kind == "add" and len(inputs) > 2:  # TFLite adds two at a time in int8.
            made = inputs[0]
            for number, other in enumerate(inputs[1:], 2):
                made = op("add", made, other, suffix=f".{number}" if number < len(inputs) else "")
            return [made]
        else:
            outputs = [self.new() for _ in node.output_tensors]
            self.ops.append(Op(path, kind, operation, inputs, outputs, shape, _filler(node)))
            return outputs
        return [self._activated(op, operation.activation, made, ".activation")]

    def _activated(self, op: Callable[..., int], function: Any, read: int, suffix: str = "") -> int:
        """Adds an activation, taken apart as TFLite does; returns the tensor that it makes."""
        name = getattr(function, "__name__", type(function).__name__)
        known = function is None or getattr(keras.activations, name, None) is function
        kind = _ACTIVATIONS.get(name, "other") if known else "other"
        if kind == "same":
            return read
        if kind == "silu":
            gate = op("sigmoid", read, suffix=f"{suffix}.sigmoid")
            return op("multiply", read, gate, suffix=suffix)
        if kind == "hard_sigmoid":
            shifted = op("shifted_relu6", read, suffix=f"{suffix}.shifted")
            return op("sixth", shifted, suffix=suffix)
        made = op(kind, read, suffix=suffix)
        self.ops[-1].name = name
        return made


def _kind(operation: Any, inputs: int) -> str:
    name = type(operation).__name__
    own = type(operation).__module__.split(".")[0] == "keras"
    if not own:
        name = keras.saving.get_registered_name(type(operation))
        return _LAYERS.get(name, "other") if ">" in name else "other"
    if name == "ReLU":
        plain = not operation.negative_slope and not operation.threshold
        limit = operation.max_value if plain else -1
        return "own" if limit == -1 else {None: "relu", 6: "relu6"}.get(limit, "clipped")
    if name in ("Conv1D", "Conv2D", "Conv2DTranspose") and operation.data_format != "channels_last":
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
