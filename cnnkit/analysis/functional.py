"""The graph of a functional or sequential Keras model, for whatever walks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


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
