"""Optimal Brain Surgeon, layer by layer: what a weight is worth if the others may make up for it.

For a layer `y = Wᵀ x` the squared error of its output has the Hessian `H = E x xᵀ`, the same for
every output. It is measured for Dense and ungrouped Conv2D layers outside of nested models, called
once and with at most `MOST_ROWS` inputs an output; other kernels count as if `H` were the identity.

Reference:
    Hassibi & Stork 1993, "Optimal Brain Surgeon", eq. 5; Dong et al. 2017, "Learning to Prune Deep
    Neural Networks via Layer-wise Optimal Brain Surgeon", https://arxiv.org/abs/1705.07565.
    Differs: all weights of an output go at once, and those that stay are solved for exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from export.batches import batches
from export.pruning.kernels import Kernel

MOST_ROWS = 8192
# Added to the diagonal, as a fraction of its mean: inputs may be copies of each other.
_DAMPING = 1e-3
_BATCH = 16


def scores(model: keras.Model, kernels: Sequence[Kernel], x: np.ndarray) -> list[np.ndarray]:
    """Returns for every weight the least error of its layer's output without it.

    That is `w² / (2 [H⁻¹]_qq)`, divided by half the energy of the output, so that layers compare.
    """
    found = []
    for kernel, hessian in zip(kernels, hessians(model, kernels, x), strict=True):
        weights = kernel.matrix(kernel.value()).astype(np.float64)
        if hessian is None:
            errors, energy = weights**2, np.square(weights).sum()
        else:
            errors = weights**2 / np.diag(np.linalg.inv(hessian))[:, None]
            energy = (weights * (hessian @ weights)).sum()
        found.append(kernel.shaped(errors / (energy or 1.0)))
    return found


def compensate(
    model: keras.Model, kernels: Sequence[Kernel], kept: Sequence[np.ndarray], x: np.ndarray
) -> None:
    """Makes all weights but the kept ones zero, and fits those to the outputs there were before.

    A kept weight that is zero stays zero.

    Args:
        model: Changed in place.
        kernels: Kernels of `model`.
        kept: For each, which weights stay.
        x: Inputs of the model.
    """
    for kernel, stays, hessian in zip(kernels, kept, hessians(model, kernels, x), strict=True):
        old = kernel.matrix(kernel.value()).astype(np.float64)
        stay = kernel.matrix(stays) & (old != 0)
        new = np.where(stay, old, 0)
        if hessian is not None:
            wanted = hessian @ old
            for output in range(old.shape[1]):
                rows = np.flatnonzero(stay[:, output])
                part = hessian[np.ix_(rows, rows)]
                new[rows, output] = np.linalg.solve(part, wanted[rows, output])
        kernel.variable.assign(kernel.shaped(new))


def hessians(
    model: keras.Model, kernels: Sequence[Kernel], x: np.ndarray
) -> list[np.ndarray | None]:
    """Returns the damped `E x xᵀ` of what each kernel multiplies, or None."""
    inputs = {
        i: kernel.layer.input for i, kernel in enumerate(kernels) if _has_input(model, kernel)
    }
    if not inputs:
        return [None] * len(kernels)
    sums: dict[int, Any] = {}
    counts = dict.fromkeys(inputs, 0)
    probe = keras.Model(model.inputs, list(inputs.values()))
    for part in batches(x, _BATCH):
        tensors = keras.tree.flatten(probe([x[part]], training=False))
        for i, tensor in zip(inputs, tensors, strict=True):
            read = _read(kernels[i].layer, tensor)
            sums[i] = sums.get(i, 0.0) + np.asarray(
                keras.ops.matmul(keras.ops.transpose(read), read), np.float64
            )
            counts[i] += len(read)
    for i, hessian in sums.items():  # in place, since they are as large as the rest together
        hessian /= counts[i]
        diagonal = np.einsum("ii->i", hessian)
        diagonal += _DAMPING * (diagonal.mean() or 1.0)
    return [sums.get(i) for i in range(len(kernels))]


def _has_input(model: keras.Model, kernel: Kernel) -> bool:
    layer = kernel.layer
    dense = isinstance(layer, keras.layers.Dense)
    conv = (
        isinstance(layer, keras.layers.Conv2D)
        and layer.groups == 1
        and layer.data_format == "channels_last"
    )
    rows = int(np.prod(kernel.variable.shape[:-1]))
    try:
        return (
            (dense or conv)
            and rows <= MOST_ROWS
            and layer in model.layers
            and layer.input is not None
        )
    except AttributeError:  # It is called in several places.
        return False


def _read(layer: Any, inputs: Any) -> Any:
    """Returns all that the layer's outputs read, a row for each position: (positions, inputs)."""
    if isinstance(layer, keras.layers.Dense):
        return keras.ops.reshape(inputs, (-1, inputs.shape[-1]))
    patches = keras.ops.image.extract_patches(
        inputs,
        size=layer.kernel_size,
        strides=layer.strides,
        dilation_rate=layer.dilation_rate,
        padding=layer.padding,
    )
    return keras.ops.reshape(patches, (-1, patches.shape[-1]))
