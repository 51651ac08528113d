"""The calls of a model one by one, nested models opened, with the shapes that they really have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from typing import TypeAlias

import keras

from cnnkit.analysis.functional import graph_of
from cnnkit.analysis.functional import nodes
from cnnkit.errors import UsageError

Sizes: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One operation of the opened graph. Tensors are known by number, batch 1."""

    name: str
    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[int]
    outputs: list[int]
    shapes: list[Sizes]

    @property
    def operands(self) -> list[Sizes]:
        """Shapes of all tensors that it is given, weights of `keras.ops` calls included."""
        leaves = keras.tree.flatten((self.args, self.kwargs))
        return [tuple(leaf.shape) for leaf in leaves if hasattr(leaf, "shape")]


def opened(model: keras.Model) -> tuple[list[Call], list[int]]:
    """Returns the calls of `model`, nested models opened, and the numbers of its outputs.

    The inputs of the model have the first numbers.

    Raises:
        UsageError: If `model` has no graph or a tensor of unknown size.
    """
    graph = graph_of(model)
    if graph is None:
        raise UsageError(
            "Cannot follow a model without a layer graph",
            where=model.name,
            expected="a functional model, or a sequential one with a known input shape",
            received=type(model).__name__,
        )
    specs: list[Any] = []  # By number: the tensor's KerasTensor with batch 1.
    calls: list[Call] = []

    def number(tensor: Any, name: str) -> int:
        specs.append(_batch_of_one(tensor, name))
        return len(specs) - 1

    def open_graph(graph: Any, inputs: list[int], prefix: str) -> list[int]:
        keys = {id(t): key for t, key in zip(graph.inputs, inputs, strict=True)}
        for node in nodes(graph):
            operation, name = node.operation, prefix + node.operation.name
            if node.is_input:
                if not prefix:
                    key = keys[id(node.output_tensors[0])]
                    calls.append(Call(name, operation, (), {}, [], [key], [specs[key].shape]))
                continue
            given = [keys[id(t)] for t in node.input_tensors]
            inner = graph_of(operation)
            if inner is not None:
                outputs = open_graph(inner, given, f"{name}/")
            else:
                args, kwargs = _arguments(node, [specs[key] for key in given])
                made = _outputs(node, args, kwargs)
                outputs = [number(tensor, name) for tensor in made]
                shapes = [specs[key].shape for key in outputs]
                calls.append(Call(name, operation, args, kwargs, given, outputs, shapes))
            keys |= zip(map(id, node.output_tensors), outputs, strict=True)
        return [keys[id(t)] for t in graph.outputs]

    inputs = [number(tensor, graph.name) for tensor in graph.inputs]
    return calls, open_graph(graph, inputs, "")


def _batch_of_one(tensor: Any, name: str) -> Any:
    if None in tensor.shape[1:]:
        raise UsageError(
            "Cannot follow a tensor of unknown size",
            where=name,
            expected="a fixed height, width and number of channels",
            received=tensor.shape,
        )
    return keras.KerasTensor((1, *tensor.shape[1:]), tensor.dtype)


def _arguments(node: Any, given: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments of a call, its symbolic inputs replaced by `given`."""
    specs = {id(t): spec for t, spec in zip(node.input_tensors, given, strict=True)}
    return keras.tree.map_structure(
        lambda leaf: specs.get(id(leaf), leaf), (node.arguments.args, node.arguments.kwargs)
    )


def _outputs(node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Returns the outputs of a call, anew where the nested model was built for other sizes."""
    declared = [tuple(t.shape[1:]) for t in node.input_tensors + node.output_tensors]
    given = [tuple(t.shape[1:]) for t in keras.tree.flatten((args, kwargs)) if symbolic(t)]
    if declared[: len(given)] == given and not any(None in shape for shape in declared):
        return node.output_tensors
    # Traces the call: a layer's own `compute_output_shape` may know less than its call.
    return keras.tree.flatten(keras.Operation.compute_output_spec(node.operation, *args, **kwargs))


def symbolic(leaf: Any) -> bool:
    """Returns whether an argument is a tensor without values."""
    return isinstance(leaf, keras.KerasTensor)
