"""What filters do to pictures, and which pictures they answer to."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from cnnkit import checks
from cnnkit import registry
from cnnkit.analysis.maps import maps_of
from cnnkit.errors import UsageError

# Wei 2017, section 2.3.2: all edges, horizontal ones and vertical ones.
EDGE_FILTERS: dict[str, list[list[float]]] = {
    "edges": [[0, -4, 0], [-4, 16, -4], [0, -4, 0]],
    "horizontal": [[1, 2, 1], [0, 0, 0], [-1, -2, -1]],
    "vertical": [[1, 0, -1], [2, 0, -2], [1, 0, -1]],
}


def filtered(picture: np.ndarray, name: str) -> np.ndarray:
    """Returns the absolute response of a grey picture to an edge filter, of its size.

    Args:
        picture: `(height, width)`; at its border it goes on as it ends.
        name: One of `EDGE_FILTERS`.

    Raises:
        UsageError: If there is no such filter.
    """
    kernel = EDGE_FILTERS[registry.known("edge filter", name, EDGE_FILTERS)]
    padded = np.pad(np.asarray(picture, np.float32), 1, mode="edge")
    response = ops.conv(padded[None, ..., None], np.array(kernel, np.float32)[..., None, None])
    return np.abs(np.asarray(response)[0, ..., 0])


def first_filters(model: keras.Model) -> np.ndarray:
    """Returns the filters of the first convolution as pictures `(n, height, width, channels)`.

    Each is scaled to [0, 1], 0.5 being zero.

    Raises:
        UsageError: If the model has no convolution of grey or colour pictures.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel.shape[2] in (1, 3):
            kernel = np.transpose(np.asarray(layer.kernel), (3, 0, 1, 2))
            most = np.abs(kernel).max((1, 2, 3), keepdims=True)
            return 0.5 + 0.5 * kernel / np.where(most > 0, most, 1)
    raise UsageError("The model has no convolution of 1 or 3 channels", where=model.name)


def activation_maps(
    model: keras.Model, pictures: np.ndarray, layer: str | None = None
) -> np.ndarray:
    """Returns the output of a layer, `(n, height, width, channels)`; None takes the last maps.

    Raises:
        UsageError: If there is no such layer, or its output has no places.
    """
    seen = keras.Model(model.inputs[0], maps_of(model, layer))
    return np.asarray(seen.predict(np.asarray(pictures, np.float32), verbose=0))


def top_pictures(
    model: keras.Model, pictures: np.ndarray, layer: str | None = None, count: int = 9
) -> np.ndarray:
    """Returns for each channel which pictures it answers to most, strongest first.

    Args:
        model: Functional or sequential model of pictures.
        pictures: As the model takes them.
        layer: Name of a layer whose output is `(height, width, channels)`; None takes the last.
        count: Pictures for each channel, at least 1.

    Returns:
        Numbers of pictures, `(channels, count)`.

    Raises:
        UsageError: If there is no such layer.
        ValueError: If there are less pictures than `count`.
    """
    checks.integer("top_pictures", "count", count, 1, len(pictures))
    strongest = activation_maps(model, pictures, layer).max((1, 2))
    return np.argsort(-strongest, axis=0, kind="stable")[:count].T
