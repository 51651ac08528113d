"""The networks of `keras.applications`, with a head of ours and what they do with pixels."""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnkit import registry
from cnnkit.errors import UsageError
from cnnkit.models import APPLICATIONS as PREFIX

# Kinds of layers that Keras numbers itself, by how many were made in the session.
_NUMBERED = re.compile(
    r"(activation|add|average_pooling2d|batch_normalization|concatenate|conv2d|dense|"
    r"depthwise_conv2d|dropout|flatten|global_average_pooling2d|input_layer|lambda|"
    r"layer_normalization|max_pooling2d|multiply|normalization|re_lu|rescaling|reshape|"
    r"separable_conv2d|zero_padding2d)(_\d+)?"
)


def build(
    name: str, input_shape: tuple[int, int, int], classes: int, *, width: float = 1.0
) -> keras.Model:
    """Returns a fresh network from normalized pictures to `logits`: its trunk, a mean, a new head.

    The names of its layers are those of a fresh session.

    Args:
        name: Such as `keras.applications.MobileNetV2`.
        input_shape: `(height, width, 3)` of the pictures.
        classes: Number of outputs, at least 2.
        width: Its `alpha`, where there is one; else 1.

    Raises:
        UsageError: If there is no such network, or it cannot have this shape or width.
    """
    trunk = _trunk(name, input_shape, width, None)
    logits = keras.layers.Dense(classes, name="logits")(trunk.outputs[0])
    return keras.Model(trunk.inputs[0], logits, name=name.removeprefix(PREFIX).lower())


def statistics(name: str) -> tuple[list[float], list[float]]:
    """Returns mean and deviation of the channels, in RGB, by which pixels 0-255 are normalized.

    They are those of its `preprocess_input`. Where that also reverses the channels, a network is
    fed RGB here all the same: see `reversed_channels`.
    """
    first, slopes = _affine(name)
    scale = slopes.sum(0)  # One number of each column is not zero.
    offset = np.where(slopes, first[:, None], 0).sum(0)
    return (-offset / scale).tolist(), (1 / scale).tolist()


def reversed_channels(name: str) -> bool:
    """Returns whether the published weights expect BGR.

    A network that is fed RGB needs their first kernel with its input channels reversed.
    """
    return bool(_affine(name)[1][0, 2])


def reverse_first_kernel(model: keras.Model) -> None:
    """Reverses the input channels of the first convolution, in place."""
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    first.kernel.assign(np.array(first.kernel)[:, :, ::-1])


@contextmanager
def imagenet(name: str, input_shape: tuple[int, int, int], width: float = 1.0) -> Iterator[Path]:
    """Gives a file of the weights that Keras publishes, without the head; it is removed after.

    They are fetched from the network unless Keras has them in its cache.

    Raises:
        UsageError: If they cannot be had.
    """
    trunk = _trunk(name, input_shape, width, "imagenet")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "imagenet.weights.h5")
        trunk.save_weights(path)
        yield path


def _make(name: str) -> Any:
    known = {PREFIX + key: make for key, make in inspect.getmembers(keras.applications, callable)}
    make = known[registry.known("model", name, known)]
    if re.fullmatch(r"EfficientNetB\d", make.__name__):
        # The numbers of its Normalization layer do not follow when weights are copied.
        raise UsageError(
            "This network cannot be copied exactly",
            where=name,
            todo=f"use {PREFIX}{make.__name__.replace('B', 'V2B', 1)}",
        )
    return make


def _trunk(
    name: str, input_shape: tuple[int, int, int], width: float, weights: str | None
) -> keras.Model:
    make = _make(name)
    if input_shape[-1] != 3:
        raise UsageError(
            f"{name} is of pictures in colours",
            expected="3 channels",
            received=input_shape[-1],
            todo="set data.channels=3",
        )
    options: dict[str, Any] = {"include_top": False, "pooling": "avg", "weights": weights}
    if "alpha" in inspect.signature(make).parameters:
        options["alpha"] = width
    elif width != 1:
        raise UsageError(f"{name} has one width", where="model.width", expected=1, received=width)
    image = keras.Input(input_shape, name="image")
    try:
        trunk = make(input_tensor=image, input_shape=input_shape, **options)
    except Exception as error:  # What Keras raises without a network is no finer.
        what = f"Cannot build {name}" if weights is None else f"No weights of ImageNet for {name}"
        todo = "" if weights is None else "without a network, name a local file of weights"
        raise UsageError(what, received=error, todo=todo) from error
    seen: dict[str, int] = {}
    for layer in trunk.layers:
        if found := _NUMBERED.fullmatch(layer.name):
            kind = found[1]
            layer.name = f"{kind}_{seen[kind]}" if kind in seen else kind
            seen[kind] = seen.get(kind, 0) + 1
    return trunk


def _affine(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns what becomes of black, and the slopes by which channels then depend on others."""
    module = getattr(keras.applications, _make(name).__module__.rsplit(".", 1)[-1])

    def become(pixel: np.ndarray) -> np.ndarray:
        return np.asarray(module.preprocess_input(pixel[None, None, None].copy()))[0, 0, 0]

    black = become(np.zeros(3, "float32"))
    slopes = [(become(np.eye(3, dtype="float32")[c] * 255) - black) / 255 for c in range(3)]
    return black, np.stack(slopes, 1)
