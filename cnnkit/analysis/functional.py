"""The graph of a functional or sequential Keras model, for whatever walks it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

from cnnkit.types import Tensor


def graph_of(model: Any) -> Any:
    """Returns the functional graph of a model, or None if it has none."""
    # A Sequential keeps its graph in a private model of its own.
    graph = getattr(model, "_functional", None) or model
    return graph if hasattr(graph, "_nodes_by_depth") else None


def nodes(graph: Any) -> Iterator[Any]:
    """Yields the calls of a graph's layers, in the order of computation."""
    # Keras has no public way to the single calls of a shared layer; `Function.call` walks these.
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from graph._nodes_by_depth[depth]


def copied_onto(x: Tensor, model: keras.Model, rename: Callable[[str], str]) -> Tensor:
    """Returns what a copy of `model` makes of a symbolic tensor, its layers flat in `x`'s graph.

    Args:
        x: Takes the place of every input.
        model: Functional or sequential, with one output.
        rename: From the name of a layer to that of its copy.
    """

    def copied(layer: Any) -> Any:
        return type(layer).from_config({**layer.get_config(), "name": rename(layer.name)})

    inner = keras.models.clone_model(keras.Model(model.inputs, model.outputs), None, copied)
    inner.set_weights(model.get_weights())
    # `call`, not the model itself: the layers land in the graph, not as one nested model.
    return keras.tree.flatten(inner.call(keras.tree.map_structure(lambda _: x, inner.input)))[0]


def called_once(image: Tensor, output: Tensor, name: str) -> keras.Model:
    """Returns a copy of the model between two tensors, in which each call of a layer is its first.

    `layer.output` is then unambiguous, which it is not behind `copied_onto`.
    """
    model = keras.Model(image, output, name=name)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy
