"""Which part of a picture an answer rests on: class activation maps, Grad-CAM, occlusion.

All take pictures as raw pixels and give maps of their size, from 0 to 1 where it rests most. A map
is 0 throughout if nothing in the picture speaks for the class.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from cnnkit import checks
from cnnkit.analysis.gradients import gradient
from cnnkit.analysis.logits import logits
from cnnkit.analysis.logits import origin
from cnnkit.analysis.maps import maps_of
from cnnkit.errors import UsageError
from cnnkit.types import Tensor


def class_activation_map(
    model: keras.Model, pictures: np.ndarray, classes: np.ndarray | None = None
) -> np.ndarray:
    """Returns `Σ_k w_k^c A_k` for a network that ends in average pooling and a Dense layer.

    Args:
        model: Functional classifier.
        pictures: Raw pixels `(n, height, width, channels)`.
        classes: What to explain, `(n,)`; None explains the likeliest class.

    Raises:
        UsageError: If the network does not end so.

    Reference:
        Zhou et al. 2016, "Learning Deep Features for Discriminative Localization", eq. 1-2,
        https://arxiv.org/abs/1512.04150. Differs: what speaks against the class is 0.
    """
    net = logits(model)
    dense, inputs = origin(net.outputs[0])
    pooling, maps = origin(inputs[0]) if inputs else (None, [])
    pooled = isinstance(pooling, keras.layers.GlobalAveragePooling2D)
    if not (isinstance(dense, keras.layers.Dense) and pooled):
        raise UsageError(
            "Class activation maps need global average pooling and a Dense layer at the end",
            received=f"{type(pooling).__name__} and {type(dense).__name__}",
            todo="use Grad-CAM, which needs neither",
        )
    both = keras.Model(net.inputs[0], [maps[0], net.outputs[0]])
    features, scores = both(_tensor(pictures), training=False)
    weights = ops.take(ops.transpose(dense.kernel), _classes(scores, classes), axis=0)
    return over_pictures(ops.sum(features * weights[:, None, None], -1), pictures)


def grad_cam(
    model: keras.Model,
    pictures: np.ndarray,
    classes: np.ndarray | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """Returns `ReLU(Σ_k a_k A_k)`, with `a_k` the mean gradient of the logit by the map `A_k`.

    Args:
        model: Functional classifier.
        pictures: Raw pixels `(n, height, width, channels)`.
        classes: What to explain, `(n,)`; None explains the likeliest class.
        layer: Whose maps are taken; None takes the last ones.

    Raises:
        UsageError: If there are no such maps, or the logits rest on more than they do.

    Reference:
        Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks", eq. 1-2,
        https://arxiv.org/abs/1610.02391. Differs: nothing.
    """
    features, slopes = _features_and_slopes(model, pictures, classes, layer)
    weights = ops.mean(slopes, (1, 2), keepdims=True)
    return over_pictures(ops.sum(weights * features, -1), pictures)


def grad_cam_plus_plus(
    model: keras.Model,
    pictures: np.ndarray,
    classes: np.ndarray | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """Returns Grad-CAM with weights that let several places of one map count alike.

    With the gradient `g` of the logit by the map `A_k`, the weight of the map is
    `Σ_ij a_ij ReLU(g_ij)`, `a_ij = g_ij² / (2 g_ij² + Σ_ab A_ab g_ij³)`.

    Args:
        model: Functional classifier.
        pictures: Raw pixels `(n, height, width, channels)`.
        classes: What to explain, `(n,)`; None explains the likeliest class.
        layer: Whose maps are taken; None takes the last ones.

    Raises:
        UsageError: If there are no such maps, or the logits rest on more than they do.

    Reference:
        Chattopadhay et al. 2018, "Grad-CAM++: Generalized Gradient-based Visual Explanations",
        eq. 10 and 19, https://arxiv.org/abs/1710.11063. Differs: the factor exp(logit), one for
        each picture, goes in the normalisation.
    """
    features, slopes = _features_and_slopes(model, pictures, classes, layer)
    sums = ops.sum(features, (1, 2), keepdims=True)
    below = 2 * slopes**2 + sums * slopes**3
    alphas = ops.where(below != 0, slopes**2 / ops.where(below != 0, below, 1), 0)
    weights = ops.sum(alphas * ops.relu(slopes), (1, 2), keepdims=True)
    return over_pictures(ops.sum(weights * features, -1), pictures)


def occlusion(
    model: keras.Model,
    pictures: np.ndarray,
    classes: np.ndarray | None = None,
    patch: int | None = None,
) -> np.ndarray:
    """Returns how much of a class' probability goes when each part of a picture is covered.

    A square in the picture's mean colour moves by half its side; each pixel has the mean over the
    squares that cover it.

    Args:
        model: Functional classifier.
        pictures: Raw pixels `(n, height, width, channels)`.
        classes: What to explain, `(n,)`; None explains the likeliest class.
        patch: Side of the square in pixels; None takes a quarter of the picture's shorter side.

    Raises:
        ValueError: If `patch` is larger than the picture, or less than 1.

    Reference:
        Zeiler, Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2,
        https://arxiv.org/abs/1311.2901. Differs: the square has the mean colour, not grey.
    """
    height, width = pictures.shape[1:3]
    side = max(1, min(height, width) // 4) if patch is None else patch
    checks.integer("occlusion", "patch", side, 1, min(height, width))
    net, step = logits(model), max(1, side // 2)

    def probabilities(x: np.ndarray) -> np.ndarray:
        return np.asarray(ops.softmax(net(_tensor(x), training=False)))

    before = probabilities(pictures)
    chosen = np.asarray(_classes(before, classes))
    rows, means = np.arange(len(pictures)), pictures.mean((1, 2), keepdims=True)
    fallen = np.zeros(pictures.shape[:3])
    covers = np.zeros((height, width))
    for top in _starts(height, side, step):
        for left in _starts(width, side, step):
            place = np.s_[top : top + side, left : left + side]
            covered = np.array(pictures, np.float32)
            covered[:, *place] = means
            fall = (before - probabilities(covered))[rows, chosen]
            fallen[:, *place] += np.maximum(fall, 0)[:, None, None]
            covers[place] += 1
    return _scaled(fallen / covers)


def over_pictures(maps: Tensor, pictures: np.ndarray) -> np.ndarray:
    """Returns maps `(n, …)` at the size of pictures, from 0 for what is not positive to 1.

    Args:
        maps: `(n, height, width)`.
        pictures: `(…, height, width, channels)`.
    """
    maps = np.maximum(np.asarray(maps), 0)
    size = pictures.shape[-3:-1]
    large = ops.image.resize(maps[..., None], size, interpolation="bilinear")
    return _scaled(np.asarray(large)[..., 0])


def _starts(length: int, side: int, step: int) -> list[int]:
    return sorted({*range(0, length - side, step), length - side})


def _features_and_slopes(
    model: keras.Model, pictures: np.ndarray, classes: np.ndarray | None, layer: str | None
) -> tuple[Tensor, Tensor]:
    """Returns the maps of a layer, and the gradient of the chosen logits by them."""
    net = logits(model)
    maps = maps_of(net, layer)
    try:
        head = keras.Model(maps, net.outputs[0])
    except ValueError:
        raise UsageError(
            "The logits rest on more than the maps of this layer",
            where=layer,
            todo="choose a layer that all paths go through",
        ) from None
    features = keras.Model(net.inputs[0], maps)(_tensor(pictures), training=False)
    chosen = _classes(head(features, training=False), classes)
    wanted = ops.one_hot(chosen, net.output_shape[-1])
    slopes = gradient(lambda a: ops.sum(wanted * head(a, training=False)), features)
    return features, slopes


def _tensor(pictures: np.ndarray) -> Tensor:
    return ops.convert_to_tensor(pictures, dtype="float32")


def _classes(scores: Tensor, classes: np.ndarray | None) -> Tensor:
    return ops.argmax(scores, -1) if classes is None else ops.convert_to_tensor(classes, "int32")


def _scaled(maps: np.ndarray) -> np.ndarray:
    most = maps.max((1, 2), keepdims=True)
    return (maps / np.where(most > 0, most, 1)).astype(np.float32)
