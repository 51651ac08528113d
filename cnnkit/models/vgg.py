"""The VGG networks: 3x3 convolutions only, with or without batch normalization."""

from dataclasses import dataclass

import keras
from keras import layers

from cnnkit.models import arguments
from cnnkit.models.variants import register_all
from cnnkit.types import Tensor

IMAGENET = (224, 224, 3)
FILTERS = (64, 128, 256, 512, 512)
UNITS = (4096, 4096)
DROPOUT = 0.5
# Each of five blocks halves the picture.
SMALLEST = 32


@dataclass(frozen=True)
class Variant:
    """What tells one VGG from another.

    Attributes:
        params: Parameters with 1000 classes, those that are not trained included.
        convolutions: In each block.
        normalized: Whether there is batch normalization after each convolution.
    """

    params: str
    convolutions: tuple[int, int, int, int, int]
    normalized: bool = False


VARIANTS = {
    "vgg11": Variant("132,863,336", (1, 1, 2, 2, 2)),
    "vgg13": Variant("133,047,848", (2, 2, 2, 2, 2)),
    "vgg16": Variant("138,357,544", (2, 2, 3, 3, 3)),
    "vgg19": Variant("143,667,240", (2, 2, 4, 4, 4)),
    "vgg11_bn": Variant("132,871,592", (1, 1, 2, 2, 2), normalized=True),
    "vgg13_bn": Variant("133,056,680", (2, 2, 2, 2, 2), normalized=True),
    "vgg16_bn": Variant("138,370,216", (2, 2, 3, 3, 3), normalized=True),
    "vgg19_bn": Variant("143,683,752", (2, 2, 4, 4, 4), normalized=True),
}


def _conv(x: Tensor, filters: int, normalized: bool, name: str) -> Tensor:
    x = layers.Conv2D(
        filters,
        3,
        padding="same",
        use_bias=not normalized,
        activation=None if normalized else "relu",
        kernel_initializer="he_normal",
        name=name,
    )(x)
    if not normalized:
        return x
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))


def _build(
    name: str,
    input_shape: tuple[int, int, int] = IMAGENET,
    classes: int = 1000,
    *,
    width: float = 1.0,
) -> keras.Model:
    """Five blocks of 3x3 convolutions with max pooling, then three dense layers.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 32x32.
        classes: Number of outputs, at least 2.
        width: Multiplies the numbers of channels and units, positive.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image
        Recognition", table 1, https://arxiv.org/abs/1409.1556. Differs: He's start; batch
        normalization is not in the paper, and convolutions before it have no bias.
    """
    variant = VARIANTS[name]
    shape = arguments.image_shape(name, input_shape, SMALLEST)
    classes = arguments.class_count(name, classes)
    filters = arguments.scaled(name, width, FILTERS)
    x = inputs = keras.Input(shape, name="image")
    for block, (channels, count) in enumerate(zip(filters, variant.convolutions, strict=True), 1):
        for conv in range(1, count + 1):
            x = _conv(x, channels, variant.normalized, f"block{block}_conv{conv}")
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(arguments.scaled(name, width, UNITS), 1):
        x = layers.Dense(units, activation="relu", kernel_initializer="he_normal", name=f"fc{i}")(x)
        x = layers.Dropout(DROPOUT, name=f"dropout{i}")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)


register_all(
    _build,
    {
        name: f"VGG-{sum(variant.convolutions) + 3}"
        f"{' with batch normalization' * variant.normalized}: {variant.params} parameters."
        for name, variant in VARIANTS.items()
    },
)
