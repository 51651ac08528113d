"""Statistics of batch normalizations, measured anew after channels went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any

from export.batches import batches

if TYPE_CHECKING:
    import keras
    import numpy as np

_BATCH = 64


def recalibrate(model: keras.Model, x: np.ndarray) -> None:
    """Sets the moving statistics of `model` to the means over batches of `x`; no weight is trained.

    Frozen layers keep theirs. Dropout is active, as in training.

    Args:
        model: Functional or sequential model with one input; changed in place.
        x: Inputs `(n, …)`, best in random order.

    Reference:
        Li et al. 2020, "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning",
        section 3.2, https://arxiv.org/abs/2007.02491. Differs: a plain mean over the batches,
        where the paper lets the momentum forget.
    """
    norms = list(_norms(model))
    momenta = [layer.momentum for layer in norms]
    parts = batches(x, _BATCH) if norms else ()
    try:
        for number, part in enumerate(parts):
            for layer in norms:
                layer.momentum = number / (number + 1)
            model(x[part], training=True)
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum


def _norms(model: keras.Model) -> Iterator[Any]:
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _norms(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            yield layer
