"""AlexNet, with which deep convolutional networks began."""

import keras
from keras import layers

from cnnkit.layers import LocalResponseNormalization
from cnnkit.models import arguments
from cnnkit.models.variants import register_all
from cnnkit.types import Tensor

IMAGENET = (227, 227, 3)
UNITS = (4096, 4096)
DROPOUT = 0.5
# Leaves one pixel after the third pooling.
SMALLEST = 67
# Name -> towers, between which the channels of the convolutions are divided.
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
        which its 55x55 map needs. The two towers meet before the third convolution and before
        the dense layers, as in figure 2.
    """
    shape = arguments.image_shape(name, input_shape, SMALLEST)
    classes = arguments.class_count(name, classes)
    count = VARIANTS[name]
    channels = arguments.scaled(name, width, (96, 256, 384, 384, 256), count)
    options = {"activation": "relu", "kernel_initializer": "he_normal"}
    inputs = keras.Input(shape, name="image")
    towers = range(1, count + 1)
    prefix = {tower: f"tower{tower}_" if count > 1 else "" for tower in towers}

    def conv(x: Tensor, i: int, size: int, tower: int) -> Tensor:
        stem = {"strides": 4} if i == 1 else {"padding": "same"}
        filters, layer = channels[i - 1] // count, f"{prefix[tower]}conv{i}"
        return layers.Conv2D(filters, size, name=layer, **stem, **options)(x)

    def pool(x: Tensor, i: int, tower: int) -> Tensor:
        return layers.MaxPooling2D(3, strides=2, name=f"{prefix[tower]}pool{i}")(x)

    def joined(parts: list[Tensor], layer: str) -> Tensor:
        return layers.Concatenate(name=layer)(parts) if count > 1 else parts[0]

    parts = []
    for tower in towers:
        x = inputs
        for i, size in ((1, 11), (2, 5)):
            x = pool(conv(x, i, size, tower), i, tower)
            x = LocalResponseNormalization(name=f"{prefix[tower]}norm{i}")(x)
        parts.append(x)
    both, parts = joined(parts, "concat2"), []
    for tower in towers:
        x = both
        for i in (3, 4, 5):
            x = conv(x, i, 3, tower)
        parts.append(pool(x, 5, tower))
    x = joined(parts, "concat5")
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(arguments.scaled(name, width, UNITS), 6):
        x = layers.Dense(units, name=f"fc{i}", **options)(x)
        x = layers.Dropout(DROPOUT, name=f"dropout{i}")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)


register_all(
    _build,
    {
        "alexnet": "AlexNet in one tower: 62,378,344 parameters.",
        "alexnet_grouped": "AlexNet in two towers: 60,965,224 parameters.",
    },
)
