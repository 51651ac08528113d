"""Counts of a functional model: multiply-accumulates, parameters, activation memory.

Conventions, which every table of the project uses:

- One MAC is one multiply and one add, so FLOPs = 2 x MACs.
- Only convolutions, dense layers and matrix products are counted. Biases, batch
  normalization, activations, pooling, additions and reshapes are 0.
- Padded positions count as if they were multiplied; a transposed convolution multiplies
  its kernel once for each input position.
- A shared layer costs its MACs at every call and its parameters once.
- The batch is 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import TypeAlias

import keras

from cnnkit.analysis.calls import Call
from cnnkit.analysis.calls import Sizes
from cnnkit.analysis.calls import opened
from cnnkit.analysis.calls import symbolic
from cnnkit.errors import UsageError


@dataclass(frozen=True)
class LayerCost:
    """What one call of one layer costs.

    Attributes:
        name: Name of the layer; inside a nested model, `outer/inner`.
        kind: Class of the layer or operation.
        input_shape: Shape of the first tensor that it is given, without the batch axis; `()` for
            the input of the model.
        output_shape: Shape of its first output, without the batch axis.
        params: Weights, trainable or not, at the layer's first call; 0 at later calls.
        macs: Multiply-accumulates for one example.
        activation_bytes: Bytes of its outputs as float32.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activation_bytes: int


def table(model: keras.Model) -> list[LayerCost]:
    """Returns one row for each call of each layer, in the order of computation.

    Raises:
        UsageError: If `model` has no graph, a tensor of unknown size, or a layer with
            matrices whose work cannot be seen.
    """
    seen: set[int] = set()
    rows = []
    for call in opened(model)[0]:
        counted = id(call.operation) in seen or not isinstance(call.operation, keras.Layer)
        seen.add(id(call.operation))
        rows.append(
            LayerCost(
                name=call.name,
                kind=type(call.operation).__name__,
                input_shape=call.operands[0][1:] if call.operands else (),
                output_shape=call.shapes[0][1:],
                params=0 if counted else call.operation.count_params(),
                macs=_macs(call),
                activation_bytes=4 * sum(map(math.prod, call.shapes)),
            )
        )
    return rows


def total(model: keras.Model) -> int:
    """Returns the multiply-accumulates of one example."""
    return sum(row.macs for row in table(model))


def params(model: keras.Model) -> int:
    """Returns the number of weights, trainable or not; shared ones once."""
    return model.count_params()


def peak_activation_bytes(model: keras.Model, itemsize: int = 4) -> int:
    """Returns the most bytes of activations that are alive at once for one example.

    A tensor lives from the operation that makes it to the last one that reads it, and an
    operation holds its inputs and its outputs together. Nothing runs in place and nothing is
    fused: a runtime that does either needs less.

    Args:
        model: Functional or built sequential model.
        itemsize: Bytes of one value: 4 for float32, 1 for int8.
    """
    calls, results = opened(model)
    last_use = {key: i for i, call in enumerate(calls) for key in call.outputs + call.inputs}
    last_use |= dict.fromkeys(results, len(calls))
    alive: dict[int, int] = {}
    peak = 0
    for i, call in enumerate(calls):
        alive |= zip(call.outputs, map(math.prod, call.shapes), strict=True)
        peak = max(peak, sum(alive.values()))
        alive = {key: size for key, size in alive.items() if last_use[key] > i}
    return peak * itemsize


def _macs(call: Call) -> int:
    operation = call.operation
    for kinds, count in _LAYERS:
        if isinstance(operation, kinds):
            return count(operation, call)
    if not isinstance(operation, keras.Layer):
        return _OPERATIONS.get(type(operation).__name__, lambda *_: 0)(operation, call)
    vectors = all(len(weight.shape) < 2 for weight in operation.weights)
    if vectors and (type(operation).__module__.startswith("keras.") or not operation.weights):
        return 0
    try:
        return _composite(operation, call)
    except UsageError:
        if vectors:  # which most layers only scale and shift by
            return 0
        raise


def _composite(layer: keras.Layer, call: Call) -> int:
    """Counts a layer that is made of others, by calling it on symbolic tensors."""
    try:
        outputs = layer.call(*call.args, **call.kwargs)
        inputs = [leaf for leaf in keras.tree.flatten((call.args, call.kwargs)) if symbolic(leaf)]
        return total(keras.Function(inputs, outputs, name=call.name.replace("/", "_")))
    except Exception as error:
        raise UsageError(
            f"Cannot count the MACs of layer {call.name!r}",
            where=type(layer).__name__,
            expected="a layer of Keras, or one whose call uses layers and keras.ops only",
            received=(str(error) or type(error).__name__).splitlines()[0],
        ) from error


def _per_output(kernel: Sizes, call: Call) -> int:
    """Convolutions (grouped too) and dense layers: kernel (…, inputs, outputs)."""
    return math.prod(kernel[:-1]) * math.prod(call.shapes[0])


def _per_input(kernel: Sizes, call: Call) -> int:
    """Transposed convolutions: kernel (…, outputs, inputs)."""
    return math.prod(kernel[:-1]) * math.prod(call.operands[0])


def _depthwise(kernel: Sizes, call: Call) -> int:
    """Depthwise convolutions: kernel (…, inputs, multiplier)."""
    return math.prod(kernel[:-2]) * math.prod(call.shapes[0])


def _separable(depthwise: Sizes, pointwise: Sizes, call: Call) -> int:
    positions = math.prod(call.shapes[0]) // pointwise[-1]
    return positions * (math.prod(depthwise) + math.prod(pointwise))


def _einsum(equation: str, operands: list[Sizes], call: Call) -> int:
    """Each output sums over the letters that the output does not have."""
    terms, _, result = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms.split(","), operands, strict=True):
        head, _, tail = term.partition("...")
        sizes |= zip(head, shape, strict=False)
        sizes |= zip(reversed(tail), reversed(shape), strict=False)
    summed = math.prod(size for letter, size in sizes.items() if letter not in result)
    return summed * math.prod(call.shapes[0])


_keras = keras.layers
_Count: TypeAlias = Callable[[Any, Call], int]
_LAYERS: tuple[tuple[tuple[type, ...], _Count], ...] = (
    (
        (_keras.Conv1D, _keras.Conv2D, _keras.Conv3D, _keras.Dense),
        lambda layer, call: _per_output(layer.kernel.shape, call),
    ),
    (
        (_keras.Conv1DTranspose, _keras.Conv2DTranspose, _keras.Conv3DTranspose),
        lambda layer, call: _per_input(layer.kernel.shape, call),
    ),
    (
        (_keras.DepthwiseConv1D, _keras.DepthwiseConv2D),
        lambda layer, call: _depthwise(layer.kernel.shape, call),
    ),
    (
        (_keras.SeparableConv1D, _keras.SeparableConv2D),
        lambda layer, call: _separable(
            layer.depthwise_kernel.shape, layer.pointwise_kernel.shape, call
        ),
    ),
    (
        (_keras.EinsumDense,),
        lambda layer, call: _einsum(
            layer.equation, [call.operands[0], tuple(layer.kernel.shape)], call
        ),
    ),
)
# By class name, since Keras keeps the classes behind `keras.ops` private.
_OPERATIONS: dict[str, _Count] = {
    "Conv": lambda _, call: _per_output(call.operands[1], call),
    "ConvTranspose": lambda _, call: _per_input(call.operands[1], call),
    "DepthwiseConv": lambda _, call: _depthwise(call.operands[1], call),
    "SeparableConv": lambda _, call: _separable(call.operands[1], call.operands[2], call),
    "Matmul": lambda _, call: call.operands[0][-1] * math.prod(call.shapes[0]),
    "Einsum": lambda op, call: _einsum(op.subscripts, call.operands, call),
    "DotProductAttention": lambda _, call: (
        2 * math.prod(call.operands[0]) * call.operands[1][1]  # Scores, then their sum of values.
    ),
    # Two matrices of sizes ab, bc and a result ac: sqrt(ab · bc · ac) = abc.
    **dict.fromkeys(
        ("Dot", "Inner", "Outer", "Tensordot"),
        lambda _, call: math.isqrt(math.prod(map(math.prod, [*call.operands, call.shapes[0]]))),
    ),
}
