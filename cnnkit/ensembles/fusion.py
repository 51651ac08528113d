"""Multi-layer feature fusion: a head that sees several of the last feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from cnnkit.analysis.functional import called_once
from cnnkit.analysis.functional import copied_onto
from cnnkit.analysis.functional import graph_of
from cnnkit.analysis.functional import nodes
from cnnkit.errors import UsageError
from cnnkit.types import Tensor

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
_ACTIVATIONS = (
    *(keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.PReLU),
    keras.layers.ELU,
)


def fused(model: keras.Model, layers: int | Sequence[str] = 3, seed: int = 0) -> keras.Model:
    """Returns a classifier with the layers and weights of `model`, and a new head.

    Each chosen feature map is averaged over its positions; side by side they are what a new Dense
    layer makes the logits from. What they are not made from is left out.

    Args:
        model: Functional classifier of pictures. It is not changed.
        layers: Names of layers with feature maps; or how many of the last activated ones, at
            most: deep features tell classes apart, early ones are the same for all and may harm.
        seed: Of the new weights.

    Raises:
        UsageError: If a layer is unknown or has no feature maps.

    Reference:
        Wei 2017, section 13.2.1, "multi-layer ensemble". Differs: it leaves open how maps become
        features; here by their means, as Lin et al. 2014, "Network in Network", section 3.2,
        https://arxiv.org/abs/1312.4400.
    """
    if graph_of(model) is None:
        raise UsageError("Only the layers of a functional model can be fused", where=model.name)
    maps = _last_maps(model, layers) if isinstance(layers, int) else _named(model, layers)
    pooled = [
        keras.layers.GlobalAveragePooling2D(name=f"fused_mean{number}")(tensor)
        for number, tensor in enumerate(maps, 1)
    ]
    x = keras.layers.Concatenate(name="fused")(pooled) if len(pooled) > 1 else pooled[0]
    initializer = keras.initializers.GlorotUniform(seed)
    head = keras.layers.Dense(
        model.output_shape[-1], kernel_initializer=initializer, name="fused_logits"
    )
    end = keras.layers.Softmax(dtype="float32", name="probabilities")
    whole = keras.Model(model.inputs[0], end(head(x)))
    image = keras.Input(model.input_shape[1:], name="image", dtype="float32")
    output = copied_onto(image, whole, str)
    return called_once(image, output, f"{model.name}_fused")


def _named(model: keras.Model, names: Sequence[str]) -> list[Tensor]:
    found = {layer.name: layer.output for layer in model.layers}
    fit = [name for name in names if len(getattr(found.get(name), "shape", ())) == 4]
    if not names or len(fit) < len(names):
        raise UsageError(
            "Not a layer with feature maps",
            where=model.name,
            received=next((name for name in names if name not in fit), "no layer at all"),
            todo="take one whose output has height, width and channels",
        )
    return [found[name] for name in names]


def _last_maps(model: keras.Model, count: int) -> list[Tensor]:
    """Returns the last feature maps behind a non-linearity."""
    found = []
    for node in nodes(graph_of(model)):
        operation, output = node.operation, node.output_tensors[0]
        linear = getattr(operation, "activation", None) is keras.activations.linear
        made = isinstance(operation, _CONVOLUTIONS + _ACTIVATIONS) and not linear
        if made and len(output.shape) == 4:
            found.append(output)
    if count < 1 or not found:
        raise UsageError(
            "There is nothing to fuse",
            where=model.name,
            expected="1 layer or more with activated feature maps",
            received=f"{len(found)}, of which {count} are wanted",
        )
    return found[-count:]
