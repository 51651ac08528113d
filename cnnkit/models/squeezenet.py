"""SqueezeNet: the accuracy of AlexNet with a fiftieth of its parameters."""

from dataclasses import dataclass

import keras
from keras import layers

from cnnkit.blocks import fire
from cnnkit.models import arguments
from cnnkit.models.variants import register_all

IMAGENET = (227, 227, 3)
DROPOUT = 0.5
# Channels after squeezing, and of each expansion, of fire2 to fire9.
FIRE = (
    (16, 64),
    (16, 64),
    (32, 128),
    (32, 128),
    (48, 192),
    (48, 192),
    (64, 256),
    (64, 256),
)


@dataclass(frozen=True)
class Variant:
    """What tells one SqueezeNet from the other.

    Attributes:
        params: With 1000 classes.
        filters: Channels of the first convolution.
        size: Height and width of its kernel.
        pooled: The layers after which pooling halves the picture.
        smallest: Least height and width that leaves one pixel.
    """

    params: str
    filters: int
    size: int
    pooled: tuple[int, int, int]
    smallest: int


VARIANTS = {
    "squeezenet1_0": Variant("1,248,424", 96, 7, (1, 4, 8), 35),
    "squeezenet1_1": Variant("1,235,496", 64, 3, (1, 3, 5), 31),
}


def _build(
    name: str,
    input_shape: tuple[int, int, int] = IMAGENET,
    classes: int = 1000,
    *,
    width: float = 1.0,
    bypass: bool = False,
) -> keras.Model:
    """A convolution, eight Fire modules and a map for each class, whose mean classifies.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 35x35 (31x31 for 1.1).
        classes: Number of outputs, at least 2.
        width: Multiplies the numbers of channels, positive.
        bypass: Whether fire3, 5, 7 and 9 add their input to their result.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and
        <0.5MB model size", table 1 and figure 2, https://arxiv.org/abs/1602.07360; version 1.1:
        https://github.com/forresti/SqueezeNet. Differs: no ReLU on the maps of the classes, so
        that logits have both signs; 227x227 pixels, which its 111x111 map needs; He's start.
    """
    variant = VARIANTS[name]
    shape = arguments.image_shape(name, input_shape, variant.smallest)
    classes = arguments.class_count(name, classes)
    (filters,) = arguments.scaled(name, width, (variant.filters,))
    x = inputs = keras.Input(shape, name="image")
    x = layers.Conv2D(
        filters,
        variant.size,
        strides=2,
        activation="relu",
        kernel_initializer="he_normal",
        name="conv1",
    )(x)
    for i in range(1, len(FIRE) + 2):
        if i > 1:
            squeeze, expand = arguments.scaled(name, width, FIRE[i - 2])
            x = fire(x, squeeze, expand, bypass=bypass and i % 2 == 1, name=f"fire{i}")
        if i in variant.pooled:
            x = layers.MaxPooling2D(3, strides=2, name=f"pool{i}")(x)
    x = layers.Dropout(DROPOUT, name="dropout9")(x)
    x = layers.Conv2D(classes, 1, name="conv10")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D(name="logits")(x), name=name)


register_all(
    _build,
    {
        name: f"SqueezeNet {name[-3:].replace('_', '.')}: {variant.params} parameters."
        for name, variant in VARIANTS.items()
    },
)
