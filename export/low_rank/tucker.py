"""Tucker-2 of a convolution: 1x1, the same kernel size on fewer channels, 1x1."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from export.low_rank.method import Factors
from export.low_rank.method import Method
from export.low_rank.method import Ranks
from export.low_rank.method import energy

if TYPE_CHECKING:
    from export.graph.chains import Link

# Of orthogonal iteration; more change the error in the third digit.
_SWEEPS = 3


class Tucker(Method):
    """Factors along inputs and outputs, with ranks of their own.

    `kept` is what the truncated higher-order SVD keeps, which orthogonal iteration then improves.

    Reference:
        Kim et al. 2016, "Compression of Deep Convolutional Neural Networks for Fast and Low Power
        Mobile Applications", section 3.1, https://arxiv.org/abs/1511.06530. Differs: ranks by
        energy or cost, not by variational Bayes.
    """

    name = "tucker"
    formula = "ip,hwpq,qo->hwio"

    @property
    def full(self) -> Ranks:
        size, inputs, outputs = np.prod(self.kernel.shape[:2]), *self.kernel.shape[2:]
        return int(min(inputs, size * outputs)), int(min(outputs, size * inputs))

    def macs(self, *ranks: Any) -> Any:
        height, width, inputs, outputs = self.kernel.shape
        first, second = ranks
        before, after = np.prod(self.size_in), np.prod(self.size_out)
        core = height * width * first * second
        return before * inputs * first + after * (core + second * outputs)

    def kept(self) -> np.ndarray:
        inputs, outputs = (_basis(self.kernel, axis) for axis in (2, 3))
        core = np.einsum("hwio,ip,oq->hwpq", self.kernel, inputs, outputs, optimize=True)
        first, second = self.full
        return energy((core**2).sum((0, 1)))[:first, :second]

    def factors(self, *ranks: int) -> Factors:
        # As `tensorly.decomposition.partial_tucker`, whose iterations take a full SVD each: minutes
        # for a kernel of 512 channels.
        kernel, (first, second) = self.kernel, ranks
        outputs = _basis(kernel, 3)[:, :second]
        for _ in range(_SWEEPS):
            inputs = _basis(np.tensordot(kernel, outputs, 1), 2)[:, :first]
            half = np.tensordot(kernel, inputs, (2, 0))  # (height, width, outputs, first)
            outputs = _basis(half, 2)[:, :second]
        return inputs, np.tensordot(half, outputs, (2, 0)), outputs.T

    def links(self, factors: Factors) -> list[Link]:
        inputs, core, outputs = factors
        return [
            self.front("reduce", inputs[None, None]),
            self.front("core", core, **self.moved(0, 1)),
            self.last(outputs[None, None]),
        ]


def _basis(kernel: np.ndarray, axis: int) -> np.ndarray:
    """Returns the left singular vectors along an axis, the largest first."""
    rows = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
    return np.linalg.eigh(rows @ rows.T)[1][:, ::-1]
