"""Which channels of a functional model belong together, and the model without some of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from cnnkit.analysis.functional import graph_of
from cnnkit.analysis.functional import nodes
from cnnkit.errors import UsageError
from export.graph import rules
from export.graph.channels import Channels
from export.graph.channels import Ids
from export.graph.channels import Mask
from export.graph.channels import Site


@dataclass(frozen=True)
class Group:
    """Units that the same layers make, so that their importances can be compared.

    A unit is a set of channels, all over the model, that stay or go together.

    Attributes:
        layers: Paths of the layers whose filters make the channels.
        units: Numbers of the units, at least two.
    """

    layers: tuple[str, ...]
    units: Ids


class Graph:
    """The channels of a model: groups that may be cut, layers that are protected, surgery.

    Args:
        model: Functional or built sequential model. It is never changed.

    Attributes:
        model: The model.
        unit: By channel number, the unit that the channel belongs to.
        outputs: Of every call, the path of its layer, its first output and the channels of that.
        filters: The weights that make channels, in the order of computation.
        size: By unit, the number of filters that make it.
        groups: What may be cut.
        protected: By path of a layer, why no channel that it makes or reads may go.
        sites: By path of a layer, what channels mean for it.
        scales: The scales of batch normalizations, with their channels.
        mixing: By path of a normalization whose statistics run over channels, those channels.

    Raises:
        UsageError: If the model has no layer graph, or its config cannot say how layers are
            shared.

    Reference:
        Fang et al. 2023, "DepGraph: Towards Any Structural Pruning",
        https://arxiv.org/abs/2301.12900. Differs: the dependencies come from the layers of the
        functional graph, not from tracing gradients, and are kept for each channel.
    """

    def __init__(self, model: keras.Model) -> None:
        if graph_of(model) is None:
            raise UsageError(
                "The model has no layer graph",
                where=model.name,
                expected="a functional model, or a sequential one with a known input shape",
                received=type(model).__name__,
            )
        self.model = model
        self.sites: dict[str, Site] = {}
        self.outputs: list[tuple[str, Any, Ids]] = []
        channels = Channels()
        self._walk(model, channels)
        if len({id(site.layer) for site in self.sites.values()}) < len(self.sites):
            raise UsageError(
                "A layer is shared between a nested model and the model around it",
                where=model.name,
                todo="call the nested model in both places, or build the layers flat",
            )
        self.unit, self._free = channels.units()
        self.filters = [site.filters for site in self.sites.values() if site.filters]
        made = [self.unit[filters.ids] for filters in self.filters]
        self.size = np.bincount(np.concatenate([[], *made]).astype(int), minlength=len(self.unit))
        self.protected = channels.protected
        self.scales = list(self._scales())
        self.mixing = channels.mixing
        self.groups = list(self._grouped())

    def _walk(self, model: keras.Model, channels: Channels) -> None:
        opened = graph_of(model)
        inputs = [channels.new(rules.width(tensor)) for tensor in opened.inputs]
        outputs = self._open(opened, inputs, channels, "")
        for ids in [*inputs, *outputs]:
            channels.fix(ids)
        for tensor in opened.outputs:
            name = tensor._keras_history.operation.name
            channels.protected.setdefault(name, "it is an output of the model")

    def _open(self, model: Any, given: list[Ids], channels: Channels, prefix: str) -> list[Ids]:
        known = {id(t): ids for t, ids in zip(model.inputs, given, strict=True)}
        for node in nodes(model):
            path = prefix + node.operation.name
            # An input layer reads the tensor that it makes.
            inputs = [known[id(t)] for t in node.input_tensors or node.output_tensors]
            if (nested := graph_of(node.operation)) is not None:
                made = self._open(nested, inputs, channels, f"{path}/")
            else:
                site = self.sites.setdefault(path, Site(node.operation))
                made = rules.apply(rules.Call(path, node, inputs, channels, site))
                self.outputs.append((path, node.output_tensors[0], made[0]))
            known |= zip(map(id, node.output_tensors), made, strict=True)
        return [known[id(t)] for t in model.outputs]

    def _grouped(self) -> Iterator[Group]:
        makers: dict[int, list[str]] = {}
        for filters in self.filters:
            for unit in np.unique(self.unit[filters.ids]):
                makers.setdefault(int(unit), []).append(filters.path)
        groups: dict[tuple[str, ...], list[int]] = {}
        for unit in sorted(makers):
            if self._free[unit]:
                groups.setdefault(tuple(makers[unit]), []).append(unit)
        for layers, units in groups.items():
            if len(units) > 1:
                yield Group(layers, np.array(units))
            else:
                for path in layers:
                    self.protected.setdefault(path, "its channels can only go all together")

    def _scales(self) -> Iterator[tuple[Any, Ids]]:
        for site in self.sites.values():
            if isinstance(site.layer, keras.layers.BatchNormalization) and site.layer.scale:
                for ids in site.slices.get(id(site.layer.gamma), {}).values():
                    yield site.layer.gamma, ids

    def units(self, path: str, channels: Iterable[int]) -> Ids:
        """Returns the units that hold the given output channels of a layer.

        Raises:
            UsageError: If the layer makes no channels, or not so many, or they must stay.
        """
        chosen = np.array(sorted(set(channels)), int)
        made = {filters.path: filters for filters in self.filters}.get(path)
        if made is None:
            raise UsageError("No layer of that name makes channels", where=path)
        if len(chosen) and not 0 <= chosen[0] <= chosen[-1] < len(made.ids):
            raise UsageError(
                "There is no such channel",
                where=path,
                expected=f"channels 0 to {len(made.ids) - 1}",
                received=f"{chosen[0]} to {chosen[-1]}",
            )
        units = np.unique(self.unit[made.ids[chosen]])
        if not self._free[units].all():
            raise UsageError(
                "The channels of this layer must stay",
                where=path,
                received=self.protected.get(path, "they reach a protected layer"),
            )
        return units

    def kept(self, removed: Iterable[int]) -> dict[str, list[int]]:
        """Returns, for each layer that loses output channels, the numbers of those it keeps."""
        keep = self._mask(removed)
        masks = {filters.path: keep[filters.ids] for filters in self.filters}
        return {p: np.flatnonzero(mask).tolist() for p, mask in masks.items() if not mask.all()}

    def disturbed(self, removed: Iterable[int]) -> list[str]:
        """Returns the normalizations whose statistics run over channels and lose some of them.

        Their outputs change even if the lost channels were zero.
        """
        keep = self._mask(removed)
        return [path for path, ids in self.mixing.items() if not keep[ids].all()]

    def rebuild(self, removed: Iterable[int]) -> keras.Model:
        """Returns a new model without the given units; names, classes and policies are kept.

        Raises:
            UsageError: If a unit must stay, a layer would lose all channels, or a layer of the
                model cannot be made from its config.
        """
        keep = self._mask(removed)
        config = self.config()
        self._edit(config, keep, "")
        model = self.remade(config)
        for (path, old), (_, new) in zip(leaves(self.model), leaves(model), strict=True):
            slices = self.sites[path].slices if path in self.sites else {}
            for source, target in zip(old.weights, new.weights, strict=True):
                value = np.asarray(source)
                for axis, ids in slices.get(id(source), {}).items():
                    value = np.compress(keep[ids], value, axis)
                target.assign(value)
        return model

    def config(self) -> dict[str, Any]:
        """Returns the model's config without the shapes of before, for `remade`.

        Raises:
            UsageError: If the model's class hides the layers.
        """
        config = copy.deepcopy(self.model.get_config())
        if "layers" not in config:
            raise UsageError(
                "The model's class hides the layers from its config",
                where=self.model.name,
                received=type(self.model).__name__,
                todo="pass keras.Model(model.inputs, model.outputs)",
            )
        _forget_shapes(config)
        return config

    def remade(self, config: dict[str, Any]) -> keras.Model:
        """Returns a new model of the same class from a changed config; its weights are fresh.

        Raises:
            UsageError: If a layer of the model cannot be made from its config.
        """
        custom = {
            type(site.layer).__name__: type(site.layer)
            for site in self.sites.values()
            if not type(site.layer).__module__.startswith("keras.")
        }
        try:
            # A scope, since nested models do not hand `custom_objects` on.
            with keras.saving.custom_object_scope(custom):
                return type(self.model).from_config(config)
        except Exception as error:
            raise UsageError(
                "The model cannot be rebuilt from its config",
                where=self.model.name,
                # Keras puts the whole config before the cause.
                received=str(error).rpartition("Exception encountered: ")[2].split(". ")[0],
                todo="functions of your own must be registered with keras.saving; "
                "Lambda layers cannot be",
            ) from error

    def _mask(self, removed: Iterable[int]) -> Mask:
        units = np.array(sorted(removed), int)
        keep = ~np.isin(self.unit, units)
        for filters in self.filters:
            if not keep[filters.ids].any():
                raise UsageError("A layer would lose all its channels", where=filters.path)
        return keep

    def _edit(self, config: dict[str, Any], keep: Mask, prefix: str) -> None:
        for entry in config["layers"]:
            inner = entry["config"]
            path = prefix + inner["name"]
            if "layers" in inner:
                self._edit(inner, keep, f"{path}/")
            elif path in self.sites:
                inner |= {key: edit(keep) for key, edit in self.sites[path].edits.items()}


def _forget_shapes(config: dict[str, Any]) -> None:
    config.pop("build_input_shape", None)
    for entry in config.get("layers", ()):
        entry.pop("build_config", None)
        _forget_shapes(entry["config"])


def leaves(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the layers that are no models, with their paths."""
    for layer in model.layers:
        if graph_of(layer) is not None:
            yield from leaves(layer, f"{prefix}{layer.name}/")
        else:
            yield prefix + layer.name, layer
