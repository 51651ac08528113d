"""Residual networks for small pictures, of depth 6n + 2."""

import keras
from keras import layers

from cnnkit.models import arguments
from cnnkit.registry import register
from cnnkit.types import Tensor

CIFAR = (32, 32, 3)
# Name -> n, the residual blocks of each of the three stages.
VARIANTS = {"resnet8": 1, "resnet14": 2, "resnet20": 3}
FILTERS = (16, 32, 64)
# The second and third stage halve the picture.
SMALLEST = 4


def _conv_bn(x: Tensor, filters: int, size: int, strides: int, name: str) -> Tensor:
    x = layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def basic_block(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    """Returns `relu(F(x) + shortcut(x))`, F being two 3x3 convolutions.

    The shortcut is the identity, or a 1x1 projection where the shape changes (option B).
    """
    y = _conv_bn(x, filters, 3, strides, f"{name}_1")
    y = layers.ReLU(name=f"{name}_1_relu")(y)
    y = _conv_bn(y, filters, 3, 1, f"{name}_2")
    if strides != 1 or x.shape[-1] != filters:
        x = _conv_bn(x, filters, 1, strides, f"{name}_shortcut")
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([y, x]))


def _build(name: str, input_shape: tuple[int, int, int], classes: int, width: float) -> keras.Model:
    shape = arguments.image_shape(name, input_shape, SMALLEST)
    classes = arguments.class_count(name, classes)
    filters = arguments.scaled(name, width, FILTERS)
    inputs = keras.Input(shape, name="image")
    x = layers.ReLU(name="stem_relu")(_conv_bn(inputs, filters[0], 3, 1, "stem"))
    for stage, channels in enumerate(filters, 1):
        for block in range(1, VARIANTS[name] + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = basic_block(x, channels, strides, f"stage{stage}_block{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(classes, kernel_initializer="he_normal", name="logits")(x)
    return keras.Model(inputs, x, name=name)


@register("model")
def resnet8(
    input_shape: tuple[int, int, int] = CIFAR, classes: int = 10, *, width: float = 1.0
) -> keras.Model:
    """ResNet-8: one residual block a stage, 78,042 trainable parameters on CIFAR-10.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 4x4.
        classes: Number of outputs, at least 2.
        width: Multiplies the channels 16, 32, 64 of the stages, positive.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2,
        https://arxiv.org/abs/1512.03385. Differs: this depth is not in the paper; projection
        shortcuts (B) where the paper's CIFAR nets pad with zeros (A); where the stride is 2, an
        even picture is padded at the bottom and right only.
    """
    return _build("resnet8", input_shape, classes, width)


@register("model")
def resnet14(
    input_shape: tuple[int, int, int] = CIFAR, classes: int = 10, *, width: float = 1.0
) -> keras.Model:
    """ResNet-14: two residual blocks a stage, 175,258 trainable parameters on CIFAR-10.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 4x4.
        classes: Number of outputs, at least 2.
        width: Multiplies the channels 16, 32, 64 of the stages, positive.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2,
        https://arxiv.org/abs/1512.03385. Differs: as `resnet8`.
    """
    return _build("resnet14", input_shape, classes, width)


@register("model")
def resnet20(
    input_shape: tuple[int, int, int] = CIFAR, classes: int = 10, *, width: float = 1.0
) -> keras.Model:
    """ResNet-20: three residual blocks a stage, 272,474 trainable parameters on CIFAR-10.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 4x4.
        classes: Number of outputs, at least 2.
        width: Multiplies the channels 16, 32, 64 of the stages, positive.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2 and table 6,
        https://arxiv.org/abs/1512.03385. Differs: shortcuts and padding as in `resnet8`.
    """
    return _build("resnet20", input_shape, classes, width)
