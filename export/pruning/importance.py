"""How much each unit of a channel graph matters: one function a criterion.

Scores of filters are divided by the mean of their layer, so that layers of any fan-in count the
same, and averaged over the filters of a unit.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from export.pruning import feature_maps
from export.pruning import group_lasso as lasso
from export.pruning import saliency

if TYPE_CHECKING:
    from export.graph import Graph
    from export.graph.channels import Ids
    from export.pipeline import PassData

SEED = 0


def l1(graph: Graph, data: PassData | None) -> np.ndarray:
    """Sum of the absolute weights of a filter.

    Reference:
        Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.1,
        https://arxiv.org/abs/1608.08710. Differs: averaged over all layers that share a channel,
        where the paper looks at the shortcut's projection alone.
    """
    return _of_filters(graph, [np.abs(matrix).sum(0) for matrix in _matrices(graph)])


def l2(graph: Graph, data: PassData | None) -> np.ndarray:
    """Square root of the sum of the squared weights of a filter."""
    return _of_filters(graph, [np.linalg.norm(matrix, axis=0) for matrix in _matrices(graph)])


def bn_gamma(graph: Graph, data: PassData | None) -> np.ndarray:
    """Absolute scale of the batch normalizations that a channel goes through; L1 without one.

    Reference:
        Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming",
        section 3, https://arxiv.org/abs/1708.06519. Differs: it needs no sparsity training;
        channels without a scale are ranked by L1.
    """
    scores = ((np.abs(np.asarray(gamma, np.float64)), ids) for gamma, ids in graph.scales)
    return _or_l1(graph, *_averaged(graph, scores))


def apoz(graph: Graph, data: PassData | None) -> np.ndarray:
    """Fraction of positions where a channel is not zero after its ReLU; L1 without one.

    Reference:
        Hu et al. 2016, "Network Trimming", section 3.1, https://arxiv.org/abs/1607.03250.
        Differs: 1 - APoZ, so that more is better; ReLUs inside nested models are not seen.
    """
    return _or_l1(graph, *_averaged(graph, feature_maps.active(graph, data)))


def taylor(graph: Graph, data: PassData | None) -> np.ndarray:
    """What the loss would change, to first order, without a feature map; L1 in nested models.

    Reference:
        Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient
        Inference", eq. 8 and 9, https://arxiv.org/abs/1611.06440. Differs: averaged over all
        feature maps that share a channel.
    """
    return _or_l1(graph, *_averaged(graph, feature_maps.taylor(graph, data)))


def obd(graph: Graph, data: PassData | None) -> np.ndarray:
    """What the loss rises by, to second order, without the weights of a filter.

    Reference:
        LeCun et al. 1990, "Optimal Brain Damage", eq. 5 and 8. Differs: summed over the filter,
        since the diagonal leaves the weights' interactions out; Gauss-Newton, see
        `saliency.gauss_newton`. Not divided by the layer's mean: it is a loss in all layers alike.
    """
    from export.pruning.kernels import kernels

    known = {id(kernel.variable): kernel for kernel in kernels(graph.model)[0]}
    made = [known[id(filters.kernel)] for filters in graph.filters]
    rises = saliency.obd(graph.model, made, data)
    return _averaged(
        graph,
        ((f.matrix(rise).sum(0), f.ids) for f, rise in zip(graph.filters, rises, strict=True)),
    )[0]


def group_lasso(graph: Graph, data: PassData | None) -> np.ndarray:
    """L2 norms of the weights that make and that read a channel, each relative to its layer's.

    Training under a group lasso has to come first, see `group_lasso.trained`: the pass does it.
    """
    relative = ((norm / (norm.mean() or 1.0), ids) for norm, ids in lasso.norms(graph))
    return _averaged(graph, relative)[0]


def random(graph: Graph, data: PassData | None) -> np.ndarray:
    """Uniform random numbers, always the same: the control that a criterion must beat."""
    return np.random.default_rng(SEED).uniform(size=len(graph.unit))


CRITERIA: dict[str, Callable[[Graph, PassData | None], np.ndarray]] = {
    "l1": l1,
    "l2": l2,
    "bn-gamma": bn_gamma,
    "apoz": apoz,
    "taylor": taylor,
    "obd": obd,
    "group-lasso": group_lasso,
    "random": random,
}


def _matrices(graph: Graph) -> list[np.ndarray]:
    return [filters.matrix().astype(np.float64) for filters in graph.filters]


def _of_filters(graph: Graph, scores: list[np.ndarray]) -> np.ndarray:
    relative = (score / (score.mean() or 1.0) for score in scores)
    ids = (filters.ids for filters in graph.filters)
    return _averaged(graph, zip(relative, ids, strict=True))[0]


def _averaged(
    graph: Graph, scores: Iterable[tuple[np.ndarray, Ids]]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns by unit the mean of the scores of its channels, and their number."""
    total, count = np.zeros(len(graph.unit)), np.zeros(len(graph.unit))
    for score, ids in scores:
        np.add.at(total, graph.unit[ids], score)
        np.add.at(count, graph.unit[ids], 1)
    return total / np.maximum(count, 1), count


def _or_l1(graph: Graph, score: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count > 0, score, l1(graph, None))
