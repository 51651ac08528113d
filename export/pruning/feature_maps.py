"""What data show about the channels of a model: how often they are on, what they do to the loss."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from cnnkit.errors import UsageError
from export.batches import batches

if TYPE_CHECKING:
    from export.graph import Graph
    from export.graph.channels import Ids
    from export.pipeline import PassData

_BATCH = 32
# Layers, then operations of `keras.ops`.
_RECTIFIERS = ("ReLU", "Relu", "Relu6")
_CURVES = """
    ELU LeakyReLU PReLU
    Elu Gelu HardSigmoid HardSilu HardTanh LeakyRelu Selu Sigmoid Silu Softplus Softsign Tanh
"""


def active(graph: Graph, data: PassData | None) -> Iterator[tuple[np.ndarray, Ids]]:
    """Yields, for each ReLU, the fraction of positive values of its channels, and the channels."""
    import keras

    relus = (keras.activations.relu, keras.activations.relu6)
    maps = _maps(graph, _RECTIFIERS, lambda activation: activation in relus)
    x, _ = _sample(data)
    if not maps:
        return
    probe = keras.Model(graph.model.inputs, [tensor for tensor, _ in maps])
    total = [0.0] * len(maps)
    for part in batches(x, _BATCH):
        values = keras.tree.flatten(probe([x[part]], training=False))
        for i, value in enumerate(map(np.asarray, values)):
            total[i] = total[i] + len(value) * (value > 0).mean(tuple(range(value.ndim - 1)))
    yield from ((np.asarray(t) / len(x), ids) for t, (_, ids) in zip(total, maps, strict=True))


def taylor(graph: Graph, data: PassData | None) -> Iterator[tuple[np.ndarray, Ids]]:
    """Yields `|mean over positions of activation x gradient|` of each feature map's channels.

    Averaged over the pictures, divided by the map's L2 norm. Feature maps are the outputs of
    nonlinearities; where a channel meets none, those of the layers that make it.
    """
    import keras
    import tensorflow as tf

    from cnnkit.onednn import unit_strides

    linear = keras.activations.linear
    maps = _maps(
        graph, (*_RECTIFIERS, *_CURVES.split()), lambda activation: activation not in (None, linear)
    )
    covered = np.unique(np.concatenate([[], *(graph.unit[ids] for _, ids in maps)]))
    maps += [
        (tensor, ids)
        for path, tensor, ids in graph.outputs
        if "/" not in path
        and graph.sites[path].filters
        and not np.isin(graph.unit[ids], covered).any()
    ]
    x, y = _sample(data)
    if y is None or len(graph.model.outputs) != 1:
        raise UsageError(
            "The criterion needs labels and a model with one output", where=graph.model.name
        )
    probe = keras.Model(graph.model.inputs, [*graph.model.outputs, *(t for t, _ in maps)])
    total = [0.0] * len(maps)
    for part in batches(x, _BATCH):
        with unit_strides(), tf.GradientTape() as tape:
            flat = keras.tree.flatten(probe([x[part]], training=False))
            scores, *values = flat
            loss = tf.reduce_sum(_cross_entropy(y[part], scores))
        gradients = tape.gradient(loss, values, unconnected_gradients="zero")
        for i, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
            product = np.asarray(value * gradient)
            means = product.mean(tuple(range(1, product.ndim - 1)))
            total[i] = total[i] + np.abs(means).sum(0)
    for t, (_, ids) in zip(map(np.asarray, total), maps, strict=True):
        yield t / (np.linalg.norm(t) or 1.0), ids


def _maps(
    graph: Graph, kinds: tuple[str, ...], counts: Callable[[Any], bool]
) -> list[tuple[Any, Ids]]:
    """Returns the outputs of layers of the given kinds or with such an activation."""
    return [
        (tensor, ids)
        for path, tensor, ids in graph.outputs
        # The tensors of a nested model are not those that it computes for this one.
        if "/" not in path
        and (
            type(graph.sites[path].layer).__name__ in kinds
            or counts(getattr(graph.sites[path].layer, "activation", None))
        )
    ]


def _sample(data: PassData | None) -> tuple[np.ndarray, np.ndarray | None]:
    if data is None or data.x is None:
        raise UsageError(
            "The criterion looks at pictures, and there are none",
            todo="give data, or choose l1, l2 or bn-gamma",
        )
    return data.x, data.y


def _cross_entropy(labels: np.ndarray, scores: Any) -> Any:
    import keras

    values = np.asarray(scores)
    probabilities = values.min() >= 0 and np.allclose(values.sum(-1), 1, atol=1e-3)
    return keras.losses.sparse_categorical_crossentropy(
        labels, scores, from_logits=not probabilities
    )
