"""CP of a convolution: 1x1, depthwise height x 1, depthwise 1 x width, 1x1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from export.low_rank.method import Factors
from export.low_rank.method import Method
from export.low_rank.method import Ranks

if TYPE_CHECKING:
    from export.graph.chains import Link

# Terms tried when the rank is to be found: each is a fit to the whole kernel.
_MOST = 256
# Sweeps of alternating least squares, for one term and for all together, and the change of the
# relative error at which they end.
_ONE, _ALL, _TOLERANCE = 10, 50, 1e-5
# Together, terms may grow and cancel each other, which float32 and int8 do not survive. The
# energies of greedy terms sum to that of the kernel at most, these to so many times it.
_CANCELLING = 10


class Cp(Method):
    """A sum of outer products of four vectors.

    Terms are found one by one, each the best for what the former left over, then all together
    by alternating least squares, unless these begin to cancel each other.

    Reference:
        Denton et al. 2014, "Exploiting Linear Structure Within Convolutional Networks for
        Efficient Evaluation", section 3.2, https://arxiv.org/abs/1404.0736 (greedy); Lebedev et
        al. 2015, "Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition",
        https://arxiv.org/abs/1412.6553 (the chain).
    """

    name = "cp"
    formula = "hr,wr,ir,ro->hwio"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._terms: list[Factors] = []
        self._left = self.kernel
        self._kept: list[float] = []

    @property
    def full(self) -> Ranks:
        return (int(np.prod(self.kernel.shape[:2])) * min(self.kernel.shape[2:]),)

    def macs(self, *ranks: Any) -> Any:
        height, width, inputs, outputs = self.kernel.shape
        first, padded, last = zip(*map(self._sizes, (0, 1)), strict=True)
        column = last[0] * padded[1] * height * (height > 1)
        row = math.prod(last) * width * (width > 1)
        ends = math.prod(first) * inputs + math.prod(self.size_out) * outputs
        return ranks[0] * (ends + column + row)

    def _sizes(self, axis: int) -> tuple[int, int, int]:
        """Returns how long an axis is after the first link, padded, and after the depthwise one."""
        if self.kernel.shape[axis] == 1:  # The first link moves on, and no other.
            return (self.size_out[axis],) * 3
        size = self.size_in[axis]
        padded = size + sum(self._padding(axis))
        strided = self.layer.strides[axis] > 1
        return size, padded, padded - self._reach(axis) if strided else self.size_out[axis]

    def _reach(self, axis: int) -> int:
        return (self.kernel.shape[axis] - 1) * self.layer.dilation_rate[axis]

    def _padding(self, axis: int) -> tuple[int, int]:
        """Returns the zeros before and after that "same" takes for the strides of the layer."""
        if self.layer.padding != "same" or self.layer.strides[axis] == 1:
            return 0, 0
        last = (self.size_out[axis] - 1) * self.layer.strides[axis]
        zeros = max(0, last + self._reach(axis) + 1 - self.size_in[axis])
        return zeros // 2, zeros - zeros // 2

    def kept(self) -> np.ndarray:
        affordable = max(1, self.cost.macs // int(self.macs(1)))
        self._find(most := min(_MOST, *self.full, affordable))
        return np.array(self._kept[:most])

    def factors(self, *ranks: int) -> Factors:
        if ranks >= self.full:
            return self._exact()
        from tensorly.cp_tensor import CPTensor
        from tensorly.decomposition import parafac

        self._find(ranks[0])
        greedy = [np.stack(vectors, 1) for vectors in zip(*self._terms[: ranks[0]], strict=True)]
        try:
            _, together = parafac(
                self.kernel,
                ranks[0],
                n_iter_max=_ALL,
                init=CPTensor((None, list(greedy))),
                tol=_TOLERANCE,
            )
        except np.linalg.LinAlgError:  # More terms than the kernel has.
            together = greedy
        if np.square(_norms(together)).sum() > _CANCELLING * np.square(self.kernel).sum():
            together = greedy
        return min(map(_alike, (together, greedy)), key=self.error)

    def _exact(self) -> Factors:
        """Returns one term for each position in the kernel and each input, or output if fewer."""
        height, width, inputs, outputs = self.kernel.shape
        few = min(inputs, outputs)
        row, column, channel = np.indices((height, width, few)).reshape(3, -1)
        one, other = np.eye(few)[:, channel], self.kernel
        if few == inputs:
            ends = one, other[row, column, channel]
        else:
            ends = other[row, column, :, channel].T, one.T
        return np.eye(height)[:, row], np.eye(width)[:, column], *ends

    def _find(self, count: int) -> None:
        """Goes on until so many greedy terms are known."""
        from tensorly.cp_tensor import cp_to_tensor
        from tensorly.decomposition import parafac

        total = np.linalg.norm(self.kernel)
        while len(self._terms) < count:
            vectors = [np.zeros((size, 1)) for size in self.kernel.shape]
            if np.linalg.norm(self._left) > 1e-9 * total:
                _, vectors = parafac(
                    self._left,
                    1,
                    n_iter_max=_ONE,
                    init="random",
                    random_state=len(self._terms),
                    tol=_TOLERANCE,
                )
            self._left = self._left - cp_to_tensor((None, vectors))
            self._terms.append(tuple(vector[:, 0] for vector in vectors))
            left = np.linalg.norm(self._left) / total if total else 0.0
            self._kept.append(float(1 - left**2))

    def links(self, factors: Factors) -> list[Link]:
        column, row, inputs, outputs = factors
        size = self.kernel.shape[:2]
        links = [self.front("reduce", inputs[None, None], **self.moved(*self._axes(flat=True)))]
        if any(map(any, pads := [self._padding(axis) for axis in (0, 1)])):
            links.append(self.pad(pads))
        # TensorFlow's depthwise convolutions only take equal strides: the last link has them all.
        for name, axis, factor in (("column", 0, column[:, None]), ("row", 1, row[None])):
            if size[axis] == 1:
                outputs = outputs * factor.reshape(-1, 1)
                continue
            padding = "valid" if self.layer.strides[axis] > 1 else self.layer.padding
            options = self.moved(axis) | {"strides": 1, "padding": padding}
            links.append(self.depthwise(name, factor, **options))
        strides = self.moved(*self._axes())["strides"]
        return [*links, self.last(outputs[None, None], strides=strides)]

    def _axes(self, *, flat: bool = False) -> list[int]:
        """Returns the axes along which the kernel has one row, or those where it has more."""
        return [axis for axis in (0, 1) if (self.kernel.shape[axis] == 1) == flat]


def _norms(factors: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the Frobenius norms of the terms."""
    return np.prod([np.linalg.norm(f, axis=0) for f in factors], axis=0)


def _alike(factors: Sequence[np.ndarray]) -> Factors:
    """Returns the factors as the formula has them, the four vectors of a term of one length."""
    length = _norms(factors) ** (1 / len(factors))
    unit = [f / np.maximum(np.linalg.norm(f, axis=0), 1e-30) for f in factors]
    *others, outputs = (f * length for f in unit)
    return *others, outputs.T
