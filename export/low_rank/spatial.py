"""Spatial SVD of a convolution: height x 1, then 1 x width."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from export.low_rank.method import Factors
from export.low_rank.method import Method
from export.low_rank.method import Ranks
from export.low_rank.method import energy
from export.low_rank.svd import decomposed
from export.low_rank.svd import truncated

if TYPE_CHECKING:
    from export.graph.chains import Link


class Spatial(Method):
    """SVD of the kernel as a matrix of `height * inputs` rows and `width * outputs` columns.

    Reference:
        Jaderberg et al. 2014, "Speeding up Convolutional Neural Networks with Low Rank
        Expansions", scheme 2, https://arxiv.org/abs/1405.3866. Differs: solved in closed form, as
        by Tai et al. 2016, https://arxiv.org/abs/1511.06067.
    """

    name = "spatial"
    formula = "hir,wro->hwio"

    @property
    def full(self) -> Ranks:
        return (min(self._matrix().shape),)

    def macs(self, *ranks: Any) -> Any:
        height, width, inputs, outputs = self.kernel.shape
        column = self.size_out[0] * self.size_in[1] * height * inputs
        row = self.size_out[0] * self.size_out[1] * width * outputs
        return ranks[0] * (column + row)

    def kept(self) -> np.ndarray:
        return energy(self._decomposed[0])

    def factors(self, *ranks: int) -> Factors:
        height, width, inputs, outputs = self.kernel.shape
        column, row = truncated(self._matrix(), self._decomposed[1], ranks[0])
        row = row.reshape(-1, width, outputs).transpose(1, 0, 2)
        return column.reshape(height, inputs, -1), row

    def links(self, factors: Factors) -> list[Link]:
        column, row = factors
        return [
            self.front("column", column[:, None], **self.moved(0)),
            self.last(row[None], **self.moved(1)),
        ]

    @cached_property
    def _decomposed(self) -> tuple[np.ndarray, np.ndarray]:
        return decomposed(self._matrix())

    def _matrix(self) -> np.ndarray:
        height, width, inputs, outputs = self.kernel.shape
        return self.kernel.transpose(0, 2, 1, 3).reshape(height * inputs, width * outputs)
