"""What in a picture made a feature large: its projection back to pixels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from cnnkit import checks
from cnnkit.analysis.functional import graph_of
from cnnkit.analysis.gradients import gradient
from cnnkit.analysis.maps import maps_of
from cnnkit.errors import UsageError
from cnnkit.types import Tensor

_RELUS = (keras.activations.relu, keras.activations.relu6)


def deconvnet(
    model: keras.Model, pictures: np.ndarray, layer: str | None, channel: int
) -> np.ndarray:
    """Returns the strongest activation of a channel, projected back to the pixels of each picture.

    All other activations of the layer are set to zero, and the layers below are run backwards:
    max pooling puts each value where its maximum came from, convolutions use their transposed
    filters, batch normalization its scale, and a ReLU is a ReLU of what comes back.

    Args:
        model: Functional or sequential model of pictures.
        pictures: As the model takes them, `(n, height, width, channels)`.
        layer: Name of a layer whose output is `(height, width, channels)`; None takes the last.
        channel: Of that layer, counted from 0.

    Returns:
        Arrays of the shape of `pictures`, positive and negative.

    Raises:
        UsageError: If there is no such layer, or its output has no places.
        ValueError: If there is no such channel.

    Reference:
        Zeiler, Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 2.1,
        https://arxiv.org/abs/1311.2901. Differs: batch normalization, which is younger.
    """
    graph = graph_of(model)
    if graph is None:
        raise UsageError("A deconvnet needs a functional model", received=type(model).__name__)
    maps = maps_of(graph, layer)
    checks.integer("deconvnet", "channel", channel, 0, maps.shape[-1] - 1)
    below = keras.Model(graph.inputs[0], maps)
    backwards = keras.models.clone_model(below, clone_function=_rectifying)
    backwards.set_weights(below.get_weights())
    x = ops.convert_to_tensor(pictures, dtype="float32")

    def half_squares(x: Tensor) -> Tensor:
        # Half a square, because its gradient is the activation itself.
        strongest = ops.max(backwards(x, training=False)[..., channel], (1, 2))
        return ops.sum(ops.square(strongest)) / 2

    return np.asarray(gradient(half_squares, x))


def _rectifying(layer: keras.Layer) -> keras.Layer:
    """Returns a copy of a layer whose ReLU lets only what is positive come back."""
    config: dict[str, Any] = layer.get_config()
    plain = isinstance(layer, keras.layers.ReLU) and not layer.negative_slope
    if plain and not layer.threshold:
        return keras.layers.Activation(_Rectifier(layer.max_value), name=layer.name)
    copy = type(layer).from_config(config)
    if getattr(layer, "activation", None) in _RELUS:
        copy.activation = _Rectifier(6.0 if layer.activation is _RELUS[1] else None)
    return copy


class _Rectifier:
    """ReLU in both directions."""

    def __init__(self, most: float | None) -> None:
        self.most = most

    def __call__(self, x: Tensor) -> Tensor:
        @ops.custom_gradient
        def rectify(x: Tensor) -> tuple[Tensor, Any]:
            def back(*args: Tensor, upstream: Tensor = None) -> Tensor:
                return ops.relu(args[0] if upstream is None else upstream)

            y = ops.relu(x)
            return y if self.most is None else ops.minimum(y, self.most), back

        return rectify(x)
