"""Residual networks for small pictures, of depth 6n + 2, and their plain twins."""

import keras
from keras import layers

from cnnkit.blocks import basic_block
from cnnkit.blocks.residual import conv_bn
from cnnkit.models import arguments
from cnnkit.models.variants import register_all

CIFAR = (32, 32, 3)
FILTERS = (16, 32, 64)
# The second and third stage halve the picture.
SMALLEST = 4
# Depth -> trainable parameters on CIFAR-10, with projections (the plain twins: without any).
RESNETS = {
    8: "78,042",
    14: "175,258",
    20: "272,474",
    32: "466,906",
    44: "661,338",
    56: "855,770",
    110: "1,730,714",
}
PLAIN = {20: "269,722", 32: "464,154", 44: "658,586", 56: "853,018"}


def _build(
    name: str,
    input_shape: tuple[int, int, int] = CIFAR,
    classes: int = 10,
    *,
    width: float = 1.0,
    shortcut: str | None = None,
) -> keras.Model:
    """A network of three stages of residual blocks.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 4x4.
        classes: Number of outputs, at least 2.
        width: Multiplies the channels 16, 32, 64 of the stages, positive.
        shortcut: Where the shape changes: "A" appends zeros, "B" projects; "none" makes the plain
            twin. By default "B" in a ResNet and "none" in a plain network.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2 and table 6,
        https://arxiv.org/abs/1512.03385. Differs: projections (B) where the paper's CIFAR nets
        pad with zeros (A), since pruning can cut them; depths 8 and 14 are not in the paper;
        where the stride is 2, an even picture is padded at the bottom and right only.
    """
    shape = arguments.image_shape(name, input_shape, SMALLEST)
    classes = arguments.class_count(name, classes)
    filters = arguments.scaled(name, width, FILTERS)
    shortcut = shortcut or ("none" if name.startswith("plain") else "B")
    inputs = keras.Input(shape, name="image")
    x = layers.ReLU(name="stem_relu")(conv_bn(inputs, filters[0], 3, name="stem"))
    blocks = (_depth(name) - 2) // 6
    for stage, channels in enumerate(filters, 1):
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = basic_block(x, channels, strides, shortcut, name=f"stage{stage}_block{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(classes, kernel_initializer="he_normal", name="logits")(x)
    return keras.Model(inputs, x, name=name)


def _depth(name: str) -> int:
    return int(name.lstrip("resntplai"))


register_all(
    _build,
    {
        f"resnet{depth}": f"ResNet-{depth} for CIFAR: {(depth - 2) // 6} residual blocks a stage, "
        f"{params} trainable parameters."
        for depth, params in RESNETS.items()
    }
    | {
        f"plain{depth}": f"ResNet-{depth} for CIFAR without its shortcuts, "
        f"{params} trainable parameters."
        for depth, params in PLAIN.items()
    },
)
