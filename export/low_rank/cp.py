"""CP of a convolution: 1x1, depthwise height x 1, depthwise 1 x width, 1x1."""

from __future__ import annotations

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
        high, wide = self.size_out
        # Along an axis where the kernel has one row, the first link moves on, and no other.
        sizes = zip(self.size_in, self.size_out, self.kernel.shape, strict=False)
        before = [i if k > 1 else o for i, o, k in sizes]
        column = high * before[1] * height * (height > 1)
        row = high * wide * width * (width > 1)
        return ranks[0] * (before[0] * before[1] * inputs + column + row + high * wide * outputs)

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
        if np.square(_sizes(together)).sum() > _CANCELLING * np.square(self.kernel).sum():
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
        flat = self.moved(*(axis for axis in (0, 1) if size[axis] == 1))
        links = [self.front("reduce", inputs[None, None], **flat)]
        for name, axis, factor in (("column", 0, column[:, None]), ("row", 1, row[None])):
            if size[axis] > 1:
                links.append(self.depthwise(name, factor, **self.moved(axis)))
            else:
                outputs = outputs * factor.reshape(-1, 1)
        return [*links, self.last(outputs[None, None])]


def _sizes(factors: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the Frobenius norms of the terms."""
    return np.prod([np.linalg.norm(f, axis=0) for f in factors], axis=0)


def _alike(factors: Sequence[np.ndarray]) -> Factors:
    """Returns the factors as the formula has them, the four vectors of a term of one length."""
    length = _sizes(factors) ** (1 / len(factors))
    unit = [f / np.maximum(np.linalg.norm(f, axis=0), 1e-30) for f in factors]
    *others, outputs = (f * length for f in unit)
    return *others, outputs.T
