"""Residual networks for ImageNet, and their plain twins."""

from dataclasses import dataclass

import keras
from keras import layers

from cnnkit.blocks import basic_block
from cnnkit.blocks import bottleneck_block
from cnnkit.blocks.residual import conv_bn
from cnnkit.models import arguments
from cnnkit.models.variants import register_all

IMAGENET = (224, 224, 3)
FILTERS = (64, 128, 256, 512)
# Stem and pooling halve the picture, and so do three of the stages.
SMALLEST = 32


@dataclass(frozen=True)
class Variant:
    """What tells one of these networks from another.

    Attributes:
        params: Trainable parameters with 1000 classes.
        blocks: Residual blocks in each stage.
        bottleneck: Whether they are bottlenecks.
        shortcut: Where the shape changes.
    """

    params: str
    blocks: tuple[int, int, int, int]
    bottleneck: bool
    shortcut: str = "B"


VARIANTS = {
    "resnet18": Variant("11,689,512", (2, 2, 2, 2), bottleneck=False),
    "resnet34": Variant("21,797,672", (3, 4, 6, 3), bottleneck=False),
    "resnet50": Variant("25,557,032", (3, 4, 6, 3), bottleneck=True),
    "resnet101": Variant("44,549,160", (3, 4, 23, 3), bottleneck=True),
    "resnet152": Variant("60,192,808", (3, 8, 36, 3), bottleneck=True),
    "plain18": Variant("11,515,688", (2, 2, 2, 2), bottleneck=False, shortcut="none"),
    "plain34": Variant("21,623,848", (3, 4, 6, 3), bottleneck=False, shortcut="none"),
}


def _build(
    name: str,
    input_shape: tuple[int, int, int] = IMAGENET,
    classes: int = 1000,
    *,
    width: float = 1.0,
    shortcut: str | None = None,
) -> keras.Model:
    """A network of four stages of residual blocks.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 32x32.
        classes: Number of outputs, at least 2.
        width: Multiplies the channels 64, 128, 256, 512 of the stages, positive.
        shortcut: Where the shape changes: "A" appends zeros, "B" projects; "none" makes the plain
            twin. By default "B" in a ResNet and "none" in a plain network.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        He et al. 2016, "Deep Residual Learning for Image Recognition", table 1,
        https://arxiv.org/abs/1512.03385. Differs: where a 3x3 convolution has stride 2, an even
        picture is padded at the bottom and right only; epsilon is Keras' 1e-3; depths 18 and 34
        have projections (B), the paper's lead with zeros (A). Bottlenecks have their stride in
        the first 1x1 convolution, as the paper's and those of keras.applications.
    """
    variant = VARIANTS[name]
    shape = arguments.image_shape(name, input_shape, SMALLEST)
    classes = arguments.class_count(name, classes)
    filters = arguments.scaled(name, width, FILTERS)
    x = inputs = keras.Input(shape, name="image")
    x = layers.ZeroPadding2D(3, name="stem_pad")(x)
    x = conv_bn(x, filters[0], 7, 2, padding="valid", name="stem")
    x = layers.ReLU(name="stem_relu")(x)
    # After a ReLU, a border of zeros never is the maximum by mistake.
    x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    x = layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    residual = bottleneck_block if variant.bottleneck else basic_block
    for stage, (channels, blocks) in enumerate(zip(filters, variant.blocks, strict=True), 1):
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            part = f"stage{stage}_block{block}"
            x = residual(x, channels, strides, shortcut or variant.shortcut, name=part)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(classes, kernel_initializer="he_normal", name="logits")(x)
    return keras.Model(inputs, x, name=name)


register_all(
    _build,
    {
        name: f"{name.replace('resnet', 'ResNet-').replace('plain', 'Plain-')} for ImageNet: "
        f"{sum(variant.blocks)} {'residual' if variant.shortcut == 'B' else 'plain'} blocks, "
        f"{variant.params} trainable parameters."
        for name, variant in VARIANTS.items()
    },
)
