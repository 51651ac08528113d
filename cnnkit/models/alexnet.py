"""AlexNet, with which deep convolutional networks began."""

import keras
from keras import layers

from cnnkit.layers import LocalResponseNormalization
from cnnkit.models import arguments
from cnnkit.models.variants import register_all

IMAGENET = (227, 227, 3)
UNITS = (4096, 4096)
DROPOUT = 0.5
# Leaves one pixel after the third pooling.
SMALLEST = 67
# Name -> groups of the second, fourth and fifth convolution.
VARIANTS = {"alexnet": 1, "alexnet_grouped": 2}


def _build(
    name: str,
    input_shape: tuple[int, int, int] = IMAGENET,
    classes: int = 1000,
    *,
    width: float = 1.0,
) -> keras.Model:
    """Five convolutions, two of them with local response normalization, and three dense layers.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 67x67.
        classes: Number of outputs, at least 2.
        width: Multiplies the numbers of channels and units, positive.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural Networks",
        section 3.5, https://papers.nips.cc/paper/4824. Differs: pooling comes before the
        normalization, as in Caffe's networks, the paper's comes after; He's start with biases of
        zero, where the paper has a deviation of 0.01 and some biases of one; 227x227 pixels,
        which its 55x55 map needs.
    """
    shape = arguments.image_shape(name, input_shape, SMALLEST)
    classes = arguments.class_count(name, classes)
    groups = VARIANTS[name]
    channels = arguments.scaled(name, width, (96, 256, 384, 384, 256), groups)
    options = {"activation": "relu", "kernel_initializer": "he_normal"}

    def conv(i: int, size: int, groups: int = 1) -> layers.Layer:
        return layers.Conv2D(
            channels[i - 1], size, padding="same", groups=groups, name=f"conv{i}", **options
        )

    x = inputs = keras.Input(shape, name="image")
    x = layers.Conv2D(channels[0], 11, strides=4, name="conv1", **options)(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    x = LocalResponseNormalization(name="norm1")(x)
    x = conv(2, 5, groups)(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool2")(x)
    x = LocalResponseNormalization(name="norm2")(x)
    x = conv(3, 3)(x)
    x = conv(4, 3, groups)(x)
    x = conv(5, 3, groups)(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool5")(x)
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(arguments.scaled(name, width, UNITS), 6):
        x = layers.Dense(units, name=f"fc{i}", **options)(x)
        x = layers.Dropout(DROPOUT, name=f"dropout{i}")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)


register_all(
    _build,
    {
        "alexnet": "AlexNet in one tower: 62,378,344 parameters.",
        "alexnet_grouped": "AlexNet in two towers, as groups of convolutions: "
        "60,965,224 parameters.",
    },
)
