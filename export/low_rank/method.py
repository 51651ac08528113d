"""What all decompositions of a layer into a chain have in common."""

from __future__ import annotations

import math
from abc import ABC
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from typing import Any
from typing import ClassVar
from typing import TypeAlias

import numpy as np

if TYPE_CHECKING:
    from cnnkit.analysis.macs import LayerCost
    from export.graph.chains import Link

Ranks: TypeAlias = tuple[int, ...]
Factors: TypeAlias = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Choice:
    """One way to decompose a layer.

    Attributes:
        method: Name of the method.
        ranks: One rank, or two for Tucker-2.
        macs: What the chain costs.
        kept: Fraction of the kernel's energy, the sum of squares, that the chain keeps.
    """

    method: str
    ranks: Ranks
    macs: int
    kept: float


class Method(ABC):
    """One decomposition of one convolution or dense layer, which counts as a 1x1 convolution.

    Args:
        layer: Conv2D without groups, or Dense.
        cost: The layer's row of `cnnkit.analysis.macs.table`.

    Attributes:
        size_in: Height and width of the layer's input.
        size_out: Height and width of its output.
    """

    name: ClassVar[str]
    # Whether it is meant for dense layers and 1x1 convolutions, or for larger kernels.
    pointwise: ClassVar[bool] = False
    # How the factors make the kernel, for `einsum`.
    formula: ClassVar[str]

    def __init__(self, layer: Any, cost: LayerCost) -> None:
        self.layer = layer
        self.cost = cost
        self.size_in, self.size_out = self._size(cost.input_shape), self._size(cost.output_shape)

    @cached_property
    def kernel(self) -> np.ndarray:
        """Float64 `(height, width, inputs, outputs)`."""
        kernel = np.asarray(self.layer.kernel, np.float64)
        return kernel if kernel.ndim == 4 else kernel[None, None]

    def _size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        if np.ndim(self.layer.kernel) == 2:
            return math.prod(shape[:-1]), 1
        first = self.layer.data_format == "channels_first"
        height, width = shape[1:] if first else shape[:-1]
        return height, width

    @property
    @abstractmethod
    def full(self) -> Ranks:
        """The ranks that are enough for every kernel of that shape."""

    @abstractmethod
    def macs(self, *ranks: Any) -> Any:
        """Returns the multiply-accumulates of the chain; takes arrays too."""

    @abstractmethod
    def kept(self) -> np.ndarray:
        """Returns the fraction of energy that ranks of 1, 2, … keep, one axis for each rank."""

    @abstractmethod
    def factors(self, *ranks: int) -> Factors:
        """Returns the factors of the kernel."""

    @abstractmethod
    def links(self, factors: Factors) -> list[Link]:
        """Returns the chain."""

    def choices(self) -> list[Choice]:
        """Returns the ranks that no cheaper ones beat, the cheapest first."""
        kept = self.kept()
        ranks = np.indices(kept.shape).reshape(kept.ndim, -1) + 1
        kept, macs = kept.ravel(), self.macs(*ranks)
        order = np.lexsort((-kept, macs))
        best = np.maximum.accumulate(kept[order])
        return [
            Choice(self.name, tuple(ranks[:, i].tolist()), int(macs[i]), float(kept[i]))
            for i in order[np.diff(best, prepend=-1.0) > 0]
        ]

    def error(self, factors: Factors) -> float:
        """Returns |kernel - its approximation| / |kernel|, Frobenius norms."""
        made = np.einsum(self.formula, *factors, optimize=True)
        return float(np.linalg.norm(self.kernel - made) / (np.linalg.norm(self.kernel) or 1.0))

    def front(self, name: str, kernel: np.ndarray, **options: Any) -> Link:
        """Returns a link without bias and activation."""
        import keras

        from export.graph.chains import Link

        options |= {"kernel_regularizer": self.layer.kernel_regularizer, **self._shared()}
        if np.ndim(self.layer.kernel) == 2:
            return Link(name, keras.layers.Dense(kernel.shape[-1], **options), [kernel[0, 0]])
        made = keras.layers.Conv2D(kernel.shape[-1], kernel.shape[:2], **options)
        return Link(name, made, [kernel])

    def depthwise(self, name: str, kernel: np.ndarray, **options: Any) -> Link:
        """Returns a depthwise link; the kernel is `(height, width, channels)`."""
        import keras

        from export.graph.chains import Link

        options |= {"depthwise_regularizer": self.layer.kernel_regularizer, **self._shared()}
        made = keras.layers.DepthwiseConv2D(kernel.shape[:2], **options)
        return Link(name, made, [kernel[..., None]])

    def pad(self, pads: Sequence[tuple[int, int]]) -> Link:
        """Returns a link that adds so many zeros before and after, by axis."""
        import keras

        from export.graph.chains import Link

        shared = self._shared()
        options = {key: shared[key] for key in ("dtype", "data_format")}
        return Link("pad", keras.layers.ZeroPadding2D(tuple(pads), **options), [])

    def _shared(self) -> dict[str, Any]:
        keys = ("dtype_policy", "trainable", "data_format")
        found = {key: getattr(self.layer, key) for key in keys if hasattr(self.layer, key)}
        return {"use_bias": False, "dtype": found.pop("dtype_policy"), **found}

    def last(self, kernel: np.ndarray, **options: Any) -> Link:
        """Returns the link that has the layer's name, bias and activation."""
        from export.graph.chains import Link

        # A constraint or an initial value of the whole kernel would be wrong for a part of it.
        config = self.layer.get_config() | {
            "kernel_constraint": None,
            "kernel_initializer": "glorot_uniform",
        }
        if np.ndim(self.layer.kernel) == 2:
            kernel = kernel[0, 0]
        else:
            config |= {"kernel_size": kernel.shape[:2], "strides": 1, "dilation_rate": 1, **options}
        weights = [kernel, np.asarray(self.layer.bias)] if self.layer.use_bias else [kernel]
        return Link("", type(self.layer).from_config(config), weights)

    def moved(self, *axes: int) -> dict[str, Any]:
        """Returns strides, dilation and padding of the layer along some axes, 1 on the others."""
        return {
            key: tuple(getattr(self.layer, key)[i] if i in axes else 1 for i in (0, 1))
            for key in ("strides", "dilation_rate")
        } | {"padding": self.layer.padding}


def energy(values: np.ndarray) -> np.ndarray:
    """Returns the fraction of the sum that lies in the first 1, 2, … values, along all axes."""
    for axis in range(values.ndim):
        values = np.cumsum(values, axis)
    total = values[(-1,) * values.ndim]
    return values / total if total > 0 else np.ones_like(values)
