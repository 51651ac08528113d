"""The kernels of a model: what convolutions and dense layers multiply by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from cnnkit.errors import UsageError
from export.wrap import require_graph

_CONVOLUTIONS = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
# First match wins: Keras derives depthwise and transposed layers from bases of their own.
_ATTRIBUTES: tuple[tuple[tuple[type, ...], dict[str, str]], ...] = (
    (_DEPTHWISE, {"kernel": "depthwise"}),
    (_TRANSPOSED, {"kernel": "transposed"}),
    (_SEPARABLE, {"depthwise_kernel": "depthwise", "pointwise_kernel": "plain"}),
    (_CONVOLUTIONS, {"kernel": "plain"}),
)


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
        path: Names of its layer, `outer/inner` in a nested model, and of itself.
        layer: Its layer.
        variable: Its weights.
        kind: "plain" (…, inputs, outputs), "transposed" (…, outputs, inputs) or
            "depthwise" (…, channels, multiplier).
    """

    path: str
    layer: Any
    variable: Any
    kind: str = "plain"

    def value(self) -> np.ndarray:
        """Returns the weights as float32."""
        return np.asarray(keras.ops.cast(self.variable, "float32"))

    def matrix(self, values: np.ndarray) -> np.ndarray:
        """Returns values of the kernel's shape as (what one output reads, outputs)."""
        if self.kind == "transposed":
            values = values.swapaxes(-1, -2)
        outputs = values.shape[-1] * (values.shape[-2] if self.kind == "depthwise" else 1)
        return values.reshape(-1, outputs)

    def shaped(self, matrix: np.ndarray) -> np.ndarray:
        """Undoes `matrix`."""
        shape = tuple(self.variable.shape)
        if self.kind == "transposed":
            return matrix.reshape(*shape[:-2], shape[-1], shape[-2]).swapaxes(-1, -2)
        return matrix.reshape(shape)


def kernels(model: keras.Model) -> tuple[list[Kernel], list[str]]:
    """Returns the kernels of `model` in the order of its layers, and what else has matrices.

    A shared layer counts once. Nested models and layers made of layers are opened.
    """
    found: list[Kernel] = []
    protected: list[str] = []
    seen: set[int] = set()
    for path, layer in _layers(model):
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        names: dict[str, str] = next(
            (n for kinds, n in _ATTRIBUTES if isinstance(layer, kinds)), {}
        )
        variables = {name: getattr(layer, name) for name in names}
        if any(not _is_float(variable) for variable in variables.values()):
            protected.append(f"{path}: its kernel is quantized or adapted, not plain floats")
            continue
        found += [Kernel(f"{path}/{n}", layer, v, names[n]) for n, v in variables.items()]
        inner = [w for _, sublayer in _sublayers(layer) for w in sublayer.weights]
        known = {id(w) for w in (*inner, *variables.values())}
        if any(len(w.shape) > 1 and id(w) not in known for w in layer.trainable_weights):
            protected.append(f"{path}: {type(layer).__name__} is no convolution or dense layer")
    return found, protected


def copied(model: keras.Model) -> keras.Model:
    """Returns a model with the same layers and weights of its own.

    Raises:
        UsageError: If `model` has no layer graph, or a layer cannot be made from its config.
    """
    require_graph(model)
    try:
        twin = keras.models.clone_model(model)
        twin.set_weights(model.get_weights())
    except Exception as error:
        raise UsageError(
            "The model cannot be rebuilt from its config",
            where=model.name,
            received=(str(error) or type(error).__name__).splitlines()[0],
            todo="give every layer of your own a complete get_config()",
        ) from error
    return twin


def _is_float(variable: Any) -> bool:
    return isinstance(variable, keras.Variable) and "float" in str(variable.dtype)


def _layers(layer: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, sublayer in _sublayers(layer):
        yield prefix + name, sublayer
        yield from _layers(sublayer, f"{prefix}{name}/")


def _sublayers(layer: Any) -> list[tuple[str, Any]]:
    # Keras has a public list of layers for models only.
    inner = (
        layer.layers
        if isinstance(layer, keras.Model)
        else layer._flatten_layers(include_self=False, recursive=False)
    )
    return [(sublayer.name, sublayer) for sublayer in inner]
