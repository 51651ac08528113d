"""Network In Network: convolutions that are small dense networks, and no dense layer."""

import keras
from keras import layers

from cnnkit.blocks import mlp_conv
from cnnkit.models import arguments
from cnnkit.models.variants import register_all

CIFAR = (32, 32, 3)
DROPOUT = 0.5
# Two poolings halve the picture.
SMALLEST = 4


def _build(
    name: str,
    input_shape: tuple[int, int, int] = CIFAR,
    classes: int = 10,
    *,
    width: float = 1.0,
) -> keras.Model:
    """Three mlpconv layers; the mean of a map for each class classifies.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 4x4.
        classes: Number of outputs, at least 2.
        width: Multiplies the numbers of channels, positive.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Lin et al. 2014, "Network In Network", sections 3 and 4,
        https://arxiv.org/abs/1312.4400; widths of the authors' CIFAR-10 network,
        https://github.com/mavenlin/cuda-convnet. Differs: no ReLU on the maps of the classes, so
        that logits have both signs; He's start.
    """
    shape = arguments.image_shape(name, input_shape, SMALLEST)
    classes = arguments.class_count(name, classes)
    wide, middle, narrow = arguments.scaled(name, width, (192, 160, 96))
    x = inputs = keras.Input(shape, name="image")
    x = mlp_conv(x, (wide, middle, narrow), 5, name="block1")
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="pool1")(x)
    x = layers.Dropout(DROPOUT, name="dropout1")(x)
    x = mlp_conv(x, (wide, wide, wide), 5, name="block2")
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="pool2")(x)
    x = layers.Dropout(DROPOUT, name="dropout2")(x)
    x = mlp_conv(x, (wide, wide), 3, name="block3")
    x = layers.Conv2D(classes, 1, name="maps")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D(name="logits")(x), name=name)


register_all(_build, {"nin": "Network In Network for CIFAR: 966,986 parameters."})
