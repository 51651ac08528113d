"""Compact DNN: GoogLeNet's plan with Conv-M modules in place of Inception."""

import keras
from keras import layers

from cnnkit.blocks import conv_m
from cnnkit.models import arguments
from cnnkit.models.variants import register_all
from cnnkit.types import Tensor

IMAGENET = (224, 224, 3)
GROUPS = 2
DROPOUT = 0.4
# Channels of each branch, stage by stage.
BRANCHES = ((64, 128), (160, 160, 160, 160, 192), (224, 288))
# A stride and four poolings halve the picture.
SMALLEST = 32


def _pool(x: Tensor, name: str) -> Tensor:
    return layers.MaxPooling2D(3, strides=2, padding="same", name=name)(x)


def _build(
    name: str,
    input_shape: tuple[int, int, int] = IMAGENET,
    classes: int = 1000,
    *,
    width: float = 1.0,
) -> keras.Model:
    """Three convolutions, nine Conv-M modules in three stages, and a dense layer.

    Args:
        input_shape: `(height, width, channels)` of the pictures, at least 32x32.
        classes: Number of outputs, at least 2.
        width: Multiplies the numbers of channels, positive.

    Raises:
        ValueError: If an argument is outside its interval.

    Reference:
        Wu et al. 2017, "A Compact DNN: Approaching GoogLeNet-Level Accuracy of Classification and
        Domain Adaptation", https://arxiv.org/abs/1703.04071; Szegedy et al. 2015, "Going Deeper
        with Convolutions", table 1, https://arxiv.org/abs/1409.4842. Differs: the plan is
        GoogLeNet's without its normalization and its side classifiers, and the widths are ours,
        chosen for the 4.1 million parameters of the paper; each branch is reduced to half of
        what it gives.
    """
    shape = arguments.image_shape(name, input_shape, SMALLEST)
    classes = arguments.class_count(name, classes)
    narrow, wide = arguments.scaled(name, width, (64, 192))
    options = {"padding": "same", "activation": "relu", "kernel_initializer": "he_normal"}
    x = inputs = keras.Input(shape, name="image")
    x = layers.Conv2D(narrow, 7, strides=2, name="conv1", **options)(x)
    x = _pool(x, "pool1")
    x = layers.Conv2D(narrow, 1, name="conv2_reduce", **options)(x)
    x = layers.Conv2D(wide, 3, name="conv2", **options)(x)
    for stage, branches in enumerate(BRANCHES, 3):
        x = _pool(x, f"pool{stage - 1}")
        # Half of a branch must be a multiple of the groups.
        filters = arguments.scaled(name, width, branches, 2 * GROUPS)
        for module, count in enumerate(filters, 1):
            x = conv_m(x, count // 2, count, GROUPS, name=f"stage{stage}_module{module}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(DROPOUT, name="dropout")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)


register_all(
    _build,
    {"compact_dnn": "Compact DNN with dilation and deconvolution: 4,088,296 parameters."},
)
