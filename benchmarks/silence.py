"""Makes chosen channels of a model zero, so that removing them must not change its outputs."""

from collections.abc import Iterable

import keras
import numpy as np

from export.graph import Graph


def harmless(graph: Graph, ratio: float) -> list[int]:
    """Returns the first `ratio` of each group's units that no mixing normalization reads."""
    mixed = [graph.unit[ids] for ids in graph.mixing.values()]
    mixed_units = np.unique(np.concatenate([np.zeros(0, int), *mixed]))
    groups = (np.setdiff1d(group.units, mixed_units) for group in graph.groups)
    return [int(u) for units in groups for u in units[: int(ratio * len(units) + 0.5)]]


def silenced(graph: Graph, removed: Iterable[int]) -> keras.Model:
    """Returns a copy of the graph's model in which every maker of the units gives zeros.

    Kernels get zero filters; biases, scales and offsets get zeros. The layers that read the
    channels keep their weights, so that a wrong cut there shows.
    """
    model = graph.rebuild([])
    copied = Graph(model)
    units = list(removed)
    for filters in copied.filters:
        gone = np.isin(copied.unit[filters.ids], units)
        kernel = np.array(filters.kernel)
        if filters.swapped:
            kernel[..., gone, :] = 0
        else:
            filters.matrix(kernel)[:, gone] = 0  # A view.
        filters.kernel.assign(kernel)
    for site in copied.sites.values():
        for variable in getattr(site.layer, "weights", []):
            if len(variable.shape) == 1 and id(variable) in site.slices:
                gone = np.isin(copied.unit[site.slices[id(variable)][0]], units)
                variable.assign(np.where(gone, 0, np.asarray(variable)))
    return model
