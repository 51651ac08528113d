"""Where the logits of a classifier are."""

import keras
import numpy as np

from cnnkit.types import Tensor

# Layers that hand scores on without changing which is the largest.
_TRANSPARENT = ("Identity", "Flatten", "Reshape", "Dropout")
_TINY = float(np.finfo(np.float32).tiny)


def outputs_probabilities(model: keras.Model) -> bool:
    """Returns whether a functional model ends in a softmax."""
    return ends_in(model.outputs[0], "softmax")


def logits(model: keras.Model) -> keras.Model:
    """Returns a model with the same layers that gives float32 logits, on which losses are exact.

    A softmax at the end is left out. Probabilities that are made in another way, such as by the
    activation of a Dense layer, become their logarithms.
    """
    return keras.Model(model.inputs[0], _float32(_before_softmax(model.outputs[0])))


def _before_softmax(tensor: Tensor) -> Tensor:
    if not ends_in(tensor, "softmax"):
        return tensor
    operation, inputs = origin(tensor)
    kind = type(operation).__name__
    if kind == "Activation" and operation.activation is keras.activations.linear:
        return _before_softmax(inputs[0])
    if kind in ("Softmax", "Activation"):
        return inputs[0]
    return keras.ops.log(keras.ops.maximum(_float32(tensor), _TINY))


def _float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == "float32" else keras.ops.cast(tensor, "float32")


def ends_in(tensor: Tensor, name: str) -> bool:
    """Returns whether a symbolic tensor comes from an activation, such as "softmax"."""
    operation, inputs = origin(tensor)
    kind, activation = type(operation).__name__, getattr(operation, "activation", None)
    if isinstance(operation, keras.Model):
        return ends_in(operation.outputs[0], name)
    if kind == name.capitalize() or activation is getattr(keras.activations, name):
        return True
    if kind == "Average":
        return all(ends_in(x, name) for x in inputs)
    if kind in _TRANSPARENT or (kind == "Activation" and activation is keras.activations.linear):
        return ends_in(inputs[0], name)
    return False


def origin(tensor: Tensor) -> tuple[keras.Operation, list[Tensor]]:
    """Returns the operation that made a symbolic tensor, and what it was made from."""
    # Keras has no public name for this; `layer.input` is ambiguous for a layer called twice.
    operation, node, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node].input_tensors
