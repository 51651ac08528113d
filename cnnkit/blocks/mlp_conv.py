"""Mlpconv: a small dense network that slides over the picture."""

from collections.abc import Sequence

from keras import layers

from cnnkit import checks
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("block")
def mlp_conv(x: Tensor, filters: Sequence[int], size: int, *, name: str) -> Tensor:
    """Convolves, then applies 1x1 convolutions, with ReLU after each.

    Args:
        x: Pictures `(batch, height, width, channels)`.
        filters: Channels of the convolution and of each 1x1 convolution after it; three in the
            paper.
        size: Height and width of the first kernel, at least 1.
        name: Beginning of the names of the layers.

    Raises:
        TypeError: If `size` or a number of filters is not an integer.
        ValueError: If `size` or a number of filters is less than 1, or there are no filters.

    Reference:
        Lin et al. 2014, "Network In Network", section 3.1, https://arxiv.org/abs/1312.4400.
        Differs: nothing.
    """
    checks.integer("mlp_conv", "size", size, 1)
    if not filters:
        raise ValueError("`filters` of mlp_conv must not be empty")
    for i, channels in enumerate(filters):
        x = layers.Conv2D(
            checks.integer("mlp_conv", "filters", channels, 1),
            1 if i else size,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
            name=f"{name}_mlp{i}" if i else f"{name}_conv",
        )(x)
    return x
