"""Gradients with respect to inputs, on TensorFlow and on JAX."""

from collections.abc import Callable

import keras

from cnnkit.errors import UsageError
from cnnkit.onednn import unit_strides
from cnnkit.types import Tensor


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Returns the gradient of a scalar function at `x`.

    Raises:
        UsageError: If Keras runs on another backend.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.grad(function)(x)
    if backend != "tensorflow":
        raise UsageError(
            "No gradients on this backend of Keras",
            expected="tensorflow or jax",
            received=backend,
        )
    import tensorflow as tf  # Keras has no gradients of its own.

    with unit_strides(), tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)
