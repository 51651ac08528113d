"""Which layer's maps are looked at."""

from __future__ import annotations

import keras

from cnnkit import registry
from cnnkit.analysis.logits import origin
from cnnkit.errors import UsageError
from cnnkit.types import Tensor


def maps_of(model: keras.Model, layer: str | None = None) -> Tensor:
    """Returns the symbolic output `(batch, height, width, channels)` of a layer.

    Args:
        model: Functional or sequential.
        layer: Its name; None takes the last maps before the output of the model.

    Raises:
        UsageError: If there is no such layer, or its output has no places.
    """
    if layer is not None:
        registry.known("layer", layer, [each.name for each in model.layers])
        tensor = model.get_layer(layer).output
    else:
        tensor = model.outputs[0]
        while len(tensor.shape) != 4 and (inputs := origin(tensor)[1]):
            tensor = inputs[0]
    if len(tensor.shape) != 4:
        raise UsageError(
            "There are no maps to look at",
            where=layer or model.name,
            expected="a layer whose output is (height, width, channels)",
            received=tuple(tensor.shape[1:]),
        )
    return tensor
