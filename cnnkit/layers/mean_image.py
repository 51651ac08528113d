"""Mean subtraction, in the graph of the model."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from cnnkit.registry import register
from cnnkit.types import Shape
from cnnkit.types import Tensor


@register("layer")
class MeanImage(keras.layers.Layer):
    """Subtracts the mean picture of the training data. Same in training and inference.

    The mean is a weight that is not trained: it is saved and exported with the model, which so
    takes raw pixels. It is zero before `adapt`. For one mean a channel, take
    `keras.layers.Normalization(axis=-1)`.

    Input shape:
        `(batch, height, width, channels)`, float; all but the batch known.

    Output shape:
        Same as input.

    Raises:
        ValueError: If a side of the input is unknown, or when `adapt` gets nothing or pictures of
            another shape.

    Example:
        >>> layer = MeanImage()
        >>> layer.adapt(keras.ops.array([[[[1.0]]], [[[3.0]]]]))
        >>> float(keras.ops.squeeze(layer(keras.ops.array([[[[5.0]]]]))))
        3.0

    Reference:
        Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural
        Networks", section 2: the "mean activity over the training set" of each pixel. Differs:
        nothing.
    """

    def build(self, input_shape: Shape) -> None:
        if None in input_shape[1:]:
            raise ValueError(
                f"MeanImage needs pictures of known size. Received: input_shape={input_shape}"
            )
        self.mean = self.add_weight(
            shape=tuple(input_shape[1:]), initializer="zeros", trainable=False, name="mean"
        )

    def adapt(self, data: Any) -> None:
        """Sets the mean.

        Args:
            data: Pictures of the training split alone, as an array or as an iterable of batches,
                such as a `tf.data.Dataset`.
        """
        total, count = np.zeros(()), 0
        for batch in _batches(data):
            if self.built and batch.shape[1:] != tuple(self.mean.shape):
                raise ValueError(
                    f"MeanImage must be adapted to pictures of shape {tuple(self.mean.shape)}. "
                    f"Received: {batch.shape[1:]}"
                )
            total = total + batch.sum(0, dtype=np.float64)
            count += len(batch)
        if not count:
            raise ValueError("MeanImage must be adapted to one picture at least. Received: none")
        if not self.built:
            self.build((None, *total.shape))
        self.mean.assign(total / count)

    def call(self, inputs: Tensor) -> Tensor:
        return inputs - keras.ops.cast(self.mean, inputs.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


def _batches(data: Any) -> Iterable[np.ndarray]:
    if hasattr(data, "shape"):
        # In pieces: pictures of eight bits would take eight times the memory at once.
        return (keras.ops.convert_to_numpy(data[k : k + 256]) for k in range(0, len(data), 256))
    return map(keras.ops.convert_to_numpy, data)
