"""Where the logits of a classifier are."""

import keras
import numpy as np

from cnnkit.types import Tensor

# Layers that hand scores on without changing which is the largest.
_TRANSPARENT = ("Identity", "Flatten", "Reshape", "Dropout")
_TINY = float(np.finfo(np.float32).tiny)
# Of the sum of weights that are float32 in a file.
_TOLERANCE = 1e-5


def outputs_probabilities(model: keras.Model) -> bool:
    """Returns whether a functional model ends in a softmax."""
    return ends_in(model.outputs[0], "softmax")


def logits(model: keras.Model) -> keras.Model:
    """Returns a model with the same layers that gives float32 logits, on which losses are exact.

    A softmax at the end is left out. Probabilities that are made in another way, such as by the
    activation of a Dense layer, become their logarithms.
    """
    return keras.Model(model.inputs[0], _float32(_before_softmax(model.outputs[0])))


def last_dense(model: keras.Model) -> tuple[keras.layers.Dense, Tensor] | None:
    """Returns the Dense layer that makes a model's logits and its input, or None without one.

    Args:
        model: Ends in logits, as `logits` returns it.
    """
    operation, inputs = origin(model.outputs[0])
    while isinstance(operation, keras.layers.Identity) or type(operation).__name__ == "Cast":
        operation, inputs = origin(inputs[0])
    linear = getattr(operation, "activation", None) is keras.activations.linear
    if isinstance(operation, keras.layers.Dense) and linear and len(inputs[0].shape) == 2:
        return operation, inputs[0]
    return None


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
    if kind == "Add":  # A mean with weights, if it is one.
        parts = [origin(x) for x in inputs]
        if all(isinstance(part, keras.layers.Rescaling) for part, _ in parts):
            mean = all(ends_in(below[0], name) for _, below in parts)
            return mean and _is_convex([part for part, _ in parts])
    if kind in _TRANSPARENT or (kind == "Activation" and activation is keras.activations.linear):
        return ends_in(inputs[0], name)
    return False


def _is_convex(parts: list[keras.layers.Rescaling]) -> bool:
    """Returns whether the parts scale by numbers that are not negative and sum to 1."""
    scales = [part.scale for part in parts]
    if any(part.offset for part in parts) or not all(isinstance(s, int | float) for s in scales):
        return False
    return min(scales) >= 0 and abs(sum(scales) - 1) < _TOLERANCE


def origin(tensor: Tensor) -> tuple[keras.Operation, list[Tensor]]:
    """Returns the operation that made a symbolic tensor, and what it was made from."""
    # Keras has no public name for this; `layer.input` is ambiguous for a layer called twice.
    operation, node, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node].input_tensors
