"""Training under a group lasso, after which the channels that do not matter are nearly zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from cnnkit.errors import UsageError

if TYPE_CHECKING:
    import keras

    from export.graph import Graph
    from export.graph.channels import Ids
    from export.pipeline import PassData


def trained(model: keras.Model, data: PassData | None, strength: float) -> keras.Model:
    """Returns a copy of `model`, trained with a penalty on every channel that may be removed.

    A channel's groups are the weights that make it and, in each layer, those that read it: behind
    a batch normalization the former can shrink without any effect. The weights of the last epoch
    are kept, since those of the most accurate one may be from before the penalty did its work.

    Args:
        model: Functional or sequential model. It is not changed.
        data: Trains the copy.
        strength: Of `cnnkit.regularizers.GroupLasso`, for filters and channels alike.

    Raises:
        UsageError: If there are no data.

    Reference:
        Wen et al. 2016, "Learning Structured Sparsity in Deep Neural Networks", section 3.2,
        https://arxiv.org/abs/1608.03665. Differs: only channels that may be removed are
        penalized; how many go is the pass' choice, not that of a threshold near zero.
    """
    from cnnkit.regularizers import GroupLasso
    from export.graph import Graph

    if data is None or data.x is None:
        raise UsageError("A group lasso has to be trained in, which needs data", where=model.name)
    twin = Graph(model).rebuild([])
    graph = Graph(twin)
    free = np.concatenate([np.zeros(0, int), *(group.units for group in graph.groups)])
    before = []
    for kernel, axes in _kernels(graph):
        before.append((kernel, kernel.regularizer))
        filters, channels = (
            strength * np.isin(graph.unit[axes.get(len(kernel.shape) - end, [])], free).any()
            for end in (1, 2)
        )
        kernel.regularizer = GroupLasso(float(filters), float(channels))
    try:
        return data.train(twin, keep_best=False) if data.train else data.recover(twin)
    finally:
        for kernel, regularizer in before:
            kernel.regularizer = regularizer


def norms(graph: Graph) -> Iterator[tuple[np.ndarray, Ids]]:
    """Yields, for each kernel, the L2 norms of the groups of its channels, and the channels."""
    for kernel, axes in _kernels(graph):
        squares = np.square(np.asarray(kernel, np.float64))
        for axis, ids in axes.items():
            yield np.sqrt(np.moveaxis(squares, axis, 0).reshape(len(ids), -1).sum(1)), ids


def _kernels(graph: Graph) -> Iterator[tuple[Any, dict[int, Ids]]]:
    """Yields the kernels with the channels along their axes."""
    for site in graph.sites.values():
        for variable in getattr(site.layer, "weights", ()):
            if variable.name.endswith("kernel") and (axes := site.slices.get(id(variable))):
                yield variable, axes
