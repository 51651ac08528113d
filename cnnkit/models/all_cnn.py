"""The all-convolutional network: strides instead of pooling, and no dense layer."""

import keras
from keras import layers

from cnnkit.models import arguments
from cnnkit.models.variants import register_all

CIFAR = (32, 32, 3)
INPUT_DROPOUT = 0.2
DROPOUT = 0.5
# Two strides halve the picture; then a 3x3 convolution has no padding.
SMALLEST = 9
# Channels by the paper's widths, kernel, stride.
LAYERS = (
    (96, 3, 1),
    (96, 3, 1),
    (96, 3, 2),
    (192, 3, 1),
    (192, 3, 1),
    (192, 3, 2),
    (192, 3, 1),
    (192, 1, 1),
)


def _build(
    name: str,
    input_shape: tuple[int, int, int] = CIFAR,
    classes: int = 10,
    *,
    width: float = 1.0,
) -> keras.Model:
    """Nine convolutions; the mean of a map for each class classifies.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 9x9.
        classes: Number of outputs, at least 2.
        width: Multiplies the numbers of channels, positive.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Springenberg et al. 2015, "Striving for Simplicity: The All Convolutional Net", table 1
        (model C) and table 2, https://arxiv.org/abs/1412.6806. Differs: no ReLU on the maps of
        the classes, so that logits have both signs; He's start.
    """
    shape = arguments.image_shape(name, input_shape, SMALLEST)
    classes = arguments.class_count(name, classes)
    x = inputs = keras.Input(shape, name="image")
    x = layers.Dropout(INPUT_DROPOUT, name="dropout0")(x)
    filters = arguments.scaled(name, width, tuple(channels for channels, *_ in LAYERS))
    for i, (channels, (_, size, strides)) in enumerate(zip(filters, LAYERS, strict=True), 1):
        x = layers.Conv2D(
            channels,
            size,
            strides=strides,
            # The paper's last map is 6x6.
            padding="valid" if i == 7 else "same",
            activation="relu",
            kernel_initializer="he_normal",
            name=f"conv{i}",
        )(x)
        if strides == 2:
            x = layers.Dropout(DROPOUT, name=f"dropout{i}")(x)
    x = layers.Conv2D(classes, 1, name="maps")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D(name="logits")(x), name=name)


register_all(
    _build, {"all_cnn_c": "All-CNN-C, in which strides replace pooling: 1,369,738 parameters."}
)
