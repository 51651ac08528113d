"""Fire module: few channels in, 1x1 and 3x3 convolutions side by side out."""

from keras import layers

from cnnkit import checks
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("block")
def fire(x: Tensor, squeeze: int, expand: int, *, bypass: bool = False, name: str) -> Tensor:
    """Squeezes channels with a 1x1 convolution, expands them with 1x1 and 3x3, concatenated.

    Args:
        x: Pictures `(batch, height, width, channels)`.
        squeeze: Channels after squeezing, at least 1.
        expand: Channels of each expansion, at least 1. The result has twice as many.
        bypass: Whether the input is added to the result.
        name: Beginning of the names of the layers.

    Raises:
        TypeError: If `squeeze` or `expand` is not an integer.
        ValueError: If one of them is less than 1, or the input to be added has other channels
            than the result.

    Reference:
        Iandola et al. 2016, "SqueezeNet", sections 3.2 and 6,
        https://arxiv.org/abs/1602.07360. Differs: nothing.
    """
    checks.integer("fire", "squeeze", squeeze, 1)
    checks.integer("fire", "expand", expand, 1)
    if bypass and x.shape[-1] != 2 * expand:
        raise ValueError(
            f"`bypass` of fire needs {2 * expand} channels, twice `expand`. Received: "
            f"{x.shape[-1]} channels"
        )

    def conv(x: Tensor, filters: int, size: int, part: str) -> Tensor:
        return layers.Conv2D(
            filters,
            size,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
            name=f"{name}_{part}",
        )(x)

    small = conv(x, squeeze, 1, "squeeze")
    branches = [conv(small, expand, 1, "expand1"), conv(small, expand, 3, "expand3")]
    y = layers.Concatenate(name=f"{name}_concat")(branches)
    return layers.Add(name=f"{name}_add")([x, y]) if bypass else y
