"""Keeps clear of kernels of oneDNN that corrupt memory.

In TensorFlow 2.21 its gradients of 1x1 convolutions with strides write past their memory, with AVX2
as with AVX-512 (https://github.com/tensorflow/tensorflow/issues/117700): training ends with
`free(): invalid next size`, or goes on with wrong numbers. With AVX they do not, and other kernels
for AVX-512 do too. So importing cnnkit limits oneDNN to AVX, unless the user has set a limit, and
importing this module, as all that trains does, to AVX2, with which convolutions train up to twice
as fast: `unit_strides` computes those convolutions in another way. Loops of the user's own, around
networks that have them, should be in it too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

import cnnkit
from cnnkit.types import Tensor

if cnnkit.LIMITED:  # has no effect after TensorFlow's first convolution: then AVX stays
    os.environ[cnnkit.LIMIT] = "AVX2"


@contextlib.contextmanager
def unit_strides() -> Iterator[None]:
    """Has 1x1 convolutions with strides drop the pixels that they skip, and then take no strides.

    They compute the same. A network that is exported or saved in here would have the slices too.
    """
    kinds = (keras.layers.Conv1D, keras.layers.Conv2D)
    own = [kind.convolution_op for kind in kinds]
    try:
        for kind, convolution_op in zip(kinds, own, strict=True):
            kind.convolution_op = _sliced(convolution_op)
        yield
    finally:
        for kind, convolution_op in zip(kinds, own, strict=True):
            kind.convolution_op = convolution_op


def _sliced(convolution_op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def op(layer: Any, inputs: Tensor, kernel: Tensor) -> Tensor:
        if set(layer.kernel_size) != {1} or set(layer.strides) == {1}:
            return convolution_op(layer, inputs, kernel)
        each = [slice(None, None, step) for step in layer.strides]
        first = layer.data_format == "channels_first"
        kept = (slice(None), slice(None), *each) if first else (slice(None), *each)
        return ops.conv(inputs[kept], kernel, 1, "valid", data_format=layer.data_format)

    return op
