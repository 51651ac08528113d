"""How much each unit of a channel graph matters.

A criterion gives every filter of every layer a score. `units` divides them by the mean of their
layer, so that layers of any fan-in count the same, and averages over the filters of a unit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from export.graph import Filters
    from export.graph import Graph

SEED = 0


def l1(graph: Graph) -> dict[str, np.ndarray]:
    """Sum of the absolute weights of a filter.

    Reference:
        Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.1,
        https://arxiv.org/abs/1608.08710. Differs: averaged over all layers that share a channel,
        where the paper looks at the shortcut's projection alone.
    """
    return {f.path: np.abs(_matrix(f)).sum(0) for f in graph.filters}


def l2(graph: Graph) -> dict[str, np.ndarray]:
    """Square root of the sum of the squared weights of a filter."""
    return {f.path: np.sqrt(np.square(_matrix(f)).sum(0)) for f in graph.filters}


def bn_gamma(graph: Graph) -> dict[str, np.ndarray]:
    """Absolute scale of the batch normalization that a channel goes through; L1 without one.

    Reference:
        Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming",
        section 3, https://arxiv.org/abs/1708.06519. Differs: it needs no sparsity training;
        channels without a scale are ranked by L1.
    """
    total, count = np.zeros(len(graph.unit)), np.zeros(len(graph.unit))
    for gamma, ids in graph.scales:
        np.add.at(total, graph.unit[ids], np.abs(np.asarray(gamma, np.float64)))
        np.add.at(count, graph.unit[ids], 1)
    mean = total / np.maximum(count, 1)
    return {
        f.path: mean[graph.unit[f.ids]] if count[graph.unit[f.ids]].all() else scores
        for f, scores in zip(graph.filters, l1(graph).values(), strict=True)
    }


def random(graph: Graph) -> dict[str, np.ndarray]:
    """Uniform random numbers, always the same: the control that a criterion must beat."""
    rng = np.random.default_rng(SEED)
    return {f.path: rng.uniform(size=len(f.ids)) for f in graph.filters}


CRITERIA: dict[str, Callable[[Graph], dict[str, np.ndarray]]] = {
    "l1": l1,
    "l2": l2,
    "bn-gamma": bn_gamma,
    "random": random,
}


def units(graph: Graph, criterion: str) -> np.ndarray:
    """Returns the importance of each unit of `graph`, by number."""
    scores = CRITERIA[criterion](graph)
    total = np.zeros(len(graph.unit))
    for filters in graph.filters:
        score = scores[filters.path]
        np.add.at(total, graph.unit[filters.ids], score / (score.mean() or 1.0))
    return total / np.maximum(graph.size, 1)


def _matrix(filters: Filters) -> np.ndarray:
    return filters.matrix().astype(np.float64)
