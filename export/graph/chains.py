"""A model in which single layers are replaced by chains of layers."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from export.graph.graph import Graph
from export.graph.graph import leaves


@dataclass(frozen=True)
class Link:
    """One layer of a chain.

    Attributes:
        name: What is added to the name of the replaced layer, which the last link bears itself.
        layer: Layer without weights; its own name does not count.
        weights: Its weights.
    """

    name: str
    layer: keras.Layer
    weights: list[np.ndarray]


def replace(graph: Graph, chains: Mapping[str, Sequence[Link]]) -> tuple[keras.Model, dict]:
    """Returns a new model with the chains, and the paths of the links by the path replaced.

    All other layers keep their names and weights.

    Args:
        graph: The graph of the model, which is not changed.
        chains: By path of a layer (`outer/inner` in a nested model) that is called once.

    Raises:
        UsageError: If the model cannot be rebuilt from its config.
    """
    config = graph.config()
    paths: dict[str, list[str]] = {}
    config["layers"] = list(_replaced(config, chains, paths, ""))
    model = graph.remade(config)
    new = dict(leaves(model))
    for path, old in leaves(graph.model):
        if path not in chains:
            for source, target in zip(old.weights, new[path].weights, strict=True):
                target.assign(source)
            continue
        for link, part in zip(chains[path], paths[path], strict=True):
            new[part].set_weights(link.weights)
    return model, paths


def _replaced(
    config: dict[str, Any], chains: Mapping[str, Sequence[Link]], paths: dict, prefix: str
) -> Iterator[dict[str, Any]]:
    """Yields the entries of the layers in a model's config."""
    taken = {entry["config"]["name"] for entry in config["layers"]}
    for entry in config["layers"]:
        inner = entry["config"]
        path = prefix + inner["name"]
        if "layers" in inner:
            inner["layers"] = list(_replaced(inner, chains, paths, f"{path}/"))
        if path not in chains:
            yield entry
            continue
        *front, last = chains[path]
        names = [_unused(f"{inner['name']}_{link.name}", taken) for link in front]
        names.append(inner["name"])
        paths[path] = [prefix + name for name in names]
        nodes = entry.get("inbound_nodes")  # A sequential model has none.
        for link, name in zip((*front, last), names, strict=True):
            made = keras.saving.serialize_keras_object(link.layer)
            made["config"]["name"] = name
            yield made if nodes is None else made | {"name": name, "inbound_nodes": nodes}
            nodes = nodes and [_reading(name)]


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _reading(name: str) -> dict[str, Any]:
    """Returns the record of a call on the output of the layer of that name."""
    # Keras takes the tensor itself from the layer; shape and type are only there to be read.
    tensor = {"shape": [], "dtype": "float32", "keras_history": [name, 0, 0]}
    return {"args": [{"class_name": "__keras_tensor__", "config": tensor}], "kwargs": {}}
