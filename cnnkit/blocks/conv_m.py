"""Conv-M: convolution, dilated convolution and deconvolution side by side."""

from keras import layers

from cnnkit import checks
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("block")
def conv_m(
    x: Tensor, reduce: int, filters: int, groups: int = 2, dilation: int = 2, *, name: str
) -> Tensor:
    """Reduces channels with a 1x1 convolution in each of three branches, then concatenates them.

    The branches go on with a 3x3 convolution, a dilated 3x3 convolution and a 3x3 transposed
    convolution, all in groups, with ReLU after every layer.

    Args:
        x: Pictures `(batch, height, width, channels)`.
        reduce: Channels of each branch after the 1x1 convolution, a multiple of `groups`.
        filters: Channels that each branch gives, a multiple of `groups`. The result has three
            times as many.
        groups: Groups of each branch, at least 1.
        dilation: Distance of the pixels that the dilated convolution sees, at least 1.
        name: Beginning of the names of the layers.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If an argument is less than 1, or `groups` does not divide it.

    Reference:
        Wu et al. 2017, "A Compact DNN: Approaching GoogLeNet-Level Accuracy of Classification and
        Domain Adaptation", section 3, https://arxiv.org/abs/1703.04071. Differs: the transposed
        convolution has stride 1, so that all branches keep the size; groups are layers of their
        own, each with its own part of the 1x1 convolution, since Keras has no transposed
        convolution in groups.
    """
    checks.integer("conv_m", "groups", groups, 1)
    checks.integer("conv_m", "dilation", dilation, 1)
    for argument, value in (("reduce", reduce), ("filters", filters)):
        if checks.integer("conv_m", argument, value, 1) % groups:
            raise ValueError(
                f"`{argument}` of conv_m must be a multiple of groups={groups}. "
                f"Received: {argument}={value}"
            )

    options = {"activation": "relu", "kernel_initializer": "he_normal"}
    padded = {"padding": "same", **options}
    outputs = filters // groups
    branches = []
    for part in ("conv", "dilated", "deconv"):
        for group in range(1, groups + 1):
            layer = f"{name}_{part}{group}"
            y = layers.Conv2D(reduce // groups, 1, name=f"{layer}_reduce", **options)(x)
            if part == "deconv":
                y = layers.Conv2DTranspose(outputs, 3, name=layer, **padded)(y)
            else:
                rate = dilation if part == "dilated" else 1
                y = layers.Conv2D(outputs, 3, dilation_rate=rate, name=layer, **padded)(y)
            branches.append(y)
    return layers.Concatenate(name=f"{name}_concat")(branches)
