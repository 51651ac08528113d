"""Dense layers as convolutions, so that a classifier slides over larger pictures."""

from typing import Any
from typing import TypeAlias

import keras
from keras import layers

from cnnkit.analysis.functional import graph_of
from cnnkit.analysis.functional import nodes
from cnnkit.errors import UsageError
from cnnkit.types import Tensor

# Height and width of the map of which each pixel of a new map stands for a vector; None for maps
# that are maps in the old model too.
_Window: TypeAlias = tuple[int, int] | None

_POOLING = {
    layers.GlobalAveragePooling2D: layers.AveragePooling2D,
    layers.GlobalMaxPooling2D: layers.MaxPooling2D,
}
# Treat every number of a vector alike and by itself.
_ELEMENTWISE = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.ELU,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.LeakyReLU,
    layers.ReLU,
)
# What a dense layer and a convolution have in common.
_SHARED = (
    "name",
    "trainable",
    "dtype",
    "activation",
    "use_bias",
    "kernel_initializer",
    "bias_initializer",
    "kernel_regularizer",
    "bias_regularizer",
    "activity_regularizer",
    "kernel_constraint",
    "bias_constraint",
)


def dense_to_conv(model: keras.Model, size: tuple[int, int] | None = None) -> keras.Model:
    """Returns a model without dense layers: at the old picture size it gives the old outputs.

    The first dense layer after a map of `h x w` becomes a convolution of that size without
    padding, the others become 1x1 convolutions, and global pooling becomes pooling over
    `h x w`. Larger pictures give `(batch, rows, columns, classes)`, one score for each place of
    the old picture on the larger one, as far apart as the strides of the network; padded
    convolutions see the surroundings of the place where they had zeros. Layers keep their
    names, with a `_` more where two nested models have the same.

    Args:
        model: Functional or built sequential model from one picture of known size to one vector,
            its maps turned into a vector by Flatten or by global pooling. Nested models are
            opened. It is not changed.
        size: Height and width of the new pictures; None leaves both open, which fixed-size
            formats do not take.

    Raises:
        UsageError: If it is not such a model, or a layer cannot be applied to maps.

    Reference:
        Long et al. 2015, "Fully Convolutional Networks for Semantic Segmentation", section 3.1,
        https://arxiv.org/abs/1411.4038. Differs: nothing.
    """
    graph = graph_of(model)
    single = graph is not None and len(graph.inputs) == len(graph.outputs) == 1
    shape: tuple[int | None, ...] = tuple(graph.inputs[0].shape) if single else ()
    if len(shape) != 4:
        raise UsageError(
            "Cannot make this model convolutional",
            where=model.name,
            expected="a functional or built sequential model of one picture, with one output",
            received=[tuple(t.shape) for t in graph.inputs] if graph else type(model).__name__,
        )
    height, width = size or (None, None)
    image = keras.Input((height, width, shape[-1]), name=graph.inputs[0].name)
    walk = _Walk()
    ((scores, window),) = walk.open(graph, [(image, None)])
    if window != (1, 1):
        raise UsageError(
            "The model has no dense layer or global pooling on which its output depends",
            where=model.name,
            expected="maps, then Flatten and Dense or global pooling",
        )
    return keras.Model(image, scores, name=f"{model.name}_conv")


class _Walk:
    """Calls the layers of a model anew, on maps."""

    def __init__(self) -> None:
        self.copies: dict[int, keras.Layer] = {}
        self.names: set[str] = set()

    def open(self, graph: Any, given: list[tuple[Tensor, _Window]]) -> list[tuple[Tensor, _Window]]:
        known = {id(old): new for old, new in zip(graph.inputs, given, strict=True)}
        for node in nodes(graph):
            if node.is_input:
                continue
            inputs = [known[id(t)] for t in node.input_tensors]
            if (inner := graph_of(node.operation)) is not None:
                made = self.open(inner, inputs)
            else:
                made = self.call(node, inputs)
            known |= zip(map(id, node.output_tensors), made, strict=True)
        return [known[id(t)] for t in graph.outputs]

    def call(self, node: Any, given: list[tuple[Tensor, _Window]]) -> list[tuple[Tensor, _Window]]:
        layer = node.operation
        (x, window), *others = given
        if others and any(window for _, window in given):
            raise _refused(layer, "it joins vectors, which become maps of different sizes")
        if isinstance(layer, layers.Flatten):
            return [(x, window or _map_size(layer, node.input_tensors[0].shape))]
        if window is None and type(layer) in _POOLING:
            size = _map_size(layer, node.input_tensors[0].shape)
            pooling = _POOLING[type(layer)](size, strides=1, name=self.free(layer.name))
            return [(pooling(x), (1, 1))]
        if window and isinstance(layer, layers.Dense):
            return [(self.convolved(layer, x, window), (1, 1))]
        if window and not _fits(layer, window):
            raise _refused(layer, "what it does to a vector cannot be done to each pixel of a map")
        new = {id(old): tensor for old, (tensor, _) in zip(node.input_tensors, given, strict=True)}
        args, kwargs = node.arguments.fill_in(new)
        made = keras.tree.flatten(self.copy(layer, args, kwargs))
        return [(tensor, window) for tensor in made]

    def convolved(self, dense: keras.Layer, x: Tensor, window: tuple[int, int]) -> Tensor:
        if id(dense) not in self.copies:
            config = {key: value for key, value in dense.get_config().items() if key in _SHARED}
            config |= {"name": self.free(dense.name), "filters": dense.units}
            self.copies[id(dense)] = layers.Conv2D.from_config(config | {"kernel_size": window})
        conv = self.copies[id(dense)]
        y = conv(x)
        kernel, *bias = dense.get_weights()
        conv.set_weights([kernel.reshape(conv.kernel.shape), *bias])
        return y

    def copy(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(layer, keras.Layer):  # An operation of `keras.ops`, without state.
            return layer(*args, **kwargs)
        if id(layer) not in self.copies:
            config = layer.get_config() | {"name": self.free(layer.name)}
            self.copies[id(layer)] = type(layer).from_config(config)
        copy = self.copies[id(layer)]
        try:
            made = copy(*args, **kwargs)
            copy.set_weights(layer.get_weights())
        except (TypeError, ValueError) as error:
            raise _refused(layer, "it holds the old size of the picture") from error
        return made

    def free(self, name: str) -> str:
        """Returns a name for a layer; those of nested models may be there already."""
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name


def _map_size(layer: keras.Layer, shape: tuple[int | None, ...]) -> tuple[int, int]:
    if len(shape) != 4 or None in shape[1:] or layer.data_format != "channels_last":
        raise _refused(layer, f"its input of shape {tuple(shape)} is no map of known size")
    return shape[1], shape[2]  # type: ignore[return-value]


def _fits(layer: Any, window: tuple[int, int]) -> bool:
    """Returns whether a layer does the same to a vector and to each pixel of a map."""
    if isinstance(layer, layers.Activation):
        mixes = layer.activation in (keras.activations.softmax, keras.activations.log_softmax)
        return window == (1, 1) or not mixes
    if isinstance(layer, _ELEMENTWISE):
        return True
    if window != (1, 1):
        return False
    if isinstance(layer, layers.BatchNormalization | layers.Softmax):
        return layer.axis in (-1, [-1], (-1,))
    return isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1)


def _refused(layer: Any, reason: str) -> UsageError:
    return UsageError(
        f"Cannot make layer {layer.name!r} convolutional: {reason}", where=type(layer).__name__
    )
