"""Networks side by side: depth, parameters, work and receptive field."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import keras

from cnnkit.analysis import macs
from cnnkit.analysis import receptive_field
from cnnkit.analysis.calls import opened


@dataclass(frozen=True)
class Summary:
    """One network.

    Attributes:
        name: Of the model.
        depth: Convolutions and dense layers on the longest way from input to output.
        params: Weights, trainable or not.
        macs: Multiply-accumulates for one picture.
        field: Pixels, along each axis, that a unit sees before the whole picture is put together;
            `()` if there is no such layer.
    """

    name: str
    depth: int
    params: int
    macs: int
    field: tuple[float, ...]

    @property
    def flops(self) -> int:
        """Two for each multiply-accumulate."""
        return 2 * self.macs


def table(models: Iterable[keras.Model]) -> list[Summary]:
    """Returns one row for each model.

    Raises:
        UsageError: If a model has no graph, a tensor of unknown size, or a layer with matrices
            whose work cannot be seen.

    Reference:
        He et al. 2016, "Deep Residual Learning for Image Recognition", figure 3 (figure 3.11 of
        the book), https://arxiv.org/abs/1512.03385. Differs: nothing; the paper calls
        multiply-adds FLOPs.
    """
    rows = []
    for model in models:
        seen = receptive_field.largest(model)
        rows.append(
            Summary(
                name=model.name,
                depth=depth(model),
                params=macs.params(model),
                macs=macs.total(model),
                field=seen.size if seen else (),
            )
        )
    return rows


def depth(model: keras.Model) -> int:
    """Returns the number of layers that multiply on the longest way through a model.

    Raises:
        UsageError: As `table`.
    """
    calls, results = opened(model)
    longest: dict[int, int] = {}
    for call, cost in zip(calls, macs.table(model), strict=True):
        before = max((longest[number] for number in call.inputs), default=0)
        longest |= dict.fromkeys(call.outputs, before + bool(cost.macs))
    return max(longest[number] for number in results)
