"""Residual blocks: a function of the input is added to the input."""

from keras import layers

from cnnkit import checks
from cnnkit.registry import register
from cnnkit.types import Tensor

SHORTCUTS = ("A", "B", "none")
# Output channels of a bottleneck for each channel inside of it.
EXPANSION = 4


def conv_bn(
    x: Tensor, filters: int, size: int, strides: int = 1, padding: str = "same", *, name: str
) -> Tensor:
    """Convolves without bias and normalizes over the batch."""
    x = layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


@register("block")
def basic_block(
    x: Tensor, filters: int, strides: int = 1, shortcut: str = "B", *, name: str
) -> Tensor:
    """Returns `relu(F(x) + shortcut(x))`, F being two 3x3 convolutions.

    The shortcut is the identity where `F(x)` has the shape of x.

    Args:
        x: Pictures `(batch, height, width, channels)`.
        filters: Channels of the result, at least 1.
        strides: Of the first convolution and of the shortcut, at least 1.
        shortcut: Where the shape changes, "A" takes every `strides`-th pixel and appends zeros to
            the channels, "B" is a 1x1 convolution. "none" leaves out every shortcut: `relu(F(x))`.
        name: Beginning of the names of the layers.

    Raises:
        TypeError: If `filters` or `strides` is not an integer.
        ValueError: If an argument is outside its interval, or shortcut A has fewer filters than x
            has channels.

    Reference:
        He et al. 2016, "Deep Residual Learning for Image Recognition", eq. 1-2, figure 5 left and
        section 4.1, https://arxiv.org/abs/1512.03385. Differs: where the stride is 2, an even
        picture is padded at the bottom and right only; epsilon is Keras' 1e-3.
    """
    _check("basic_block", filters, strides, shortcut)
    y = conv_bn(x, filters, 3, strides, name=f"{name}_1")
    y = layers.ReLU(name=f"{name}_1_relu")(y)
    y = conv_bn(y, filters, 3, name=f"{name}_2")
    return _joined(x, y, strides, shortcut, name)


@register("block")
def bottleneck_block(
    x: Tensor, filters: int, strides: int = 1, shortcut: str = "B", *, name: str
) -> Tensor:
    """Returns `relu(F(x) + shortcut(x))`, F being 1x1, 3x3 and 1x1 convolutions.

    The last convolution has four times the channels of the others.

    Args:
        x: Pictures `(batch, height, width, channels)`.
        filters: Channels of the 3x3 convolution, at least 1.
        strides: Of the first convolution and of the shortcut, at least 1.
        shortcut: "A", "B" or "none", as in `basic_block`.
        name: Beginning of the names of the layers.

    Raises:
        TypeError: If `filters` or `strides` is not an integer.
        ValueError: If an argument is outside its interval, or shortcut A has fewer filters than x
            has channels.

    Reference:
        He et al. 2016, "Deep Residual Learning for Image Recognition", figure 5 right,
        https://arxiv.org/abs/1512.03385. Differs: epsilon is Keras' 1e-3.
    """
    _check("bottleneck_block", filters, strides, shortcut)
    y = conv_bn(x, filters, 1, strides, name=f"{name}_1")
    y = layers.ReLU(name=f"{name}_1_relu")(y)
    y = conv_bn(y, filters, 3, name=f"{name}_2")
    y = layers.ReLU(name=f"{name}_2_relu")(y)
    y = conv_bn(y, EXPANSION * filters, 1, name=f"{name}_3")
    return _joined(x, y, strides, shortcut, name)


def _check(owner: str, filters: int, strides: int, shortcut: str) -> None:
    checks.integer(owner, "filters", filters, 1)
    checks.integer(owner, "strides", strides, 1)
    checks.one_of(owner, "shortcut", shortcut, SHORTCUTS)


def _joined(x: Tensor, y: Tensor, strides: int, shortcut: str, name: str) -> Tensor:
    if shortcut != "none":
        if strides != 1 or x.shape[-1] != y.shape[-1]:
            change = _padded if shortcut == "A" else _projected
            x = change(x, y.shape[-1], strides, f"{name}_shortcut")
        y = layers.Add(name=f"{name}_add")([y, x])
    return layers.ReLU(name=f"{name}_relu")(y)


def _projected(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    return conv_bn(x, filters, 1, strides, name=name)


def _padded(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    added = filters - x.shape[-1]
    if added < 0:
        raise ValueError(
            f"Shortcut A of {name} cannot take away channels. Received: {x.shape[-1]} channels "
            f"and {filters} filters"
        )
    if strides != 1:
        x = layers.MaxPooling2D(1, strides=strides, name=f"{name}_pool")(x)
    # Told that channels come first, the layer pads the last two axes: here, width and channels.
    pad = layers.ZeroPadding2D(
        ((0, 0), (0, added)), data_format="channels_first", name=f"{name}_pad"
    )
    return pad(x) if added else x
