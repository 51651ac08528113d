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
        convolution has stride 1, so that all branches keep the size; its groups are layers of
        their own, each with its own part of the 1x1 convolution, since Keras has no transposed
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

    def reduced(channels: int, part: str) -> Tensor:
        options = {"activation": "relu", "kernel_initializer": "he_normal"}
        return layers.Conv2D(channels, 1, name=f"{name}_{part}_reduce", **options)(x)

    options = {"padding": "same", "activation": "relu", "kernel_initializer": "he_normal"}
    branches = [
        layers.Conv2D(filters, 3, groups=groups, name=f"{name}_conv", **options)(
            reduced(reduce, "conv")
        ),
        layers.Conv2D(
            filters, 3, groups=groups, dilation_rate=dilation, name=f"{name}_dilated", **options
        )(reduced(reduce, "dilated")),
        *(
            layers.Conv2DTranspose(filters // groups, 3, name=f"{name}_deconv{i}", **options)(
                reduced(reduce // groups, f"deconv{i}")
            )
            for i in range(1, groups + 1)
        ),
    ]
    return layers.Concatenate(name=f"{name}_concat")(branches)
