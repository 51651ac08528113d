"""Channel SVD of a convolution: the same kernel size with fewer outputs, then 1x1."""

from __future__ import annotations

from export.low_rank.svd import Svd


class Channel(Svd):
    """SVD of the kernel as a matrix of `height * width * inputs` rows and a column an output.

    Reference:
        Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks for Classification and
        Detection", section 3.1, https://arxiv.org/abs/1505.06798. Differs: the kernel is
        approximated, not the responses to data.
    """

    name = "channel"
    pointwise = False
