"""Truncated SVD of a dense layer or a 1x1 convolution: two layers, the first one narrow."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from export.low_rank.method import Factors
from export.low_rank.method import Method
from export.low_rank.method import Ranks
from export.low_rank.method import energy

if TYPE_CHECKING:
    from export.graph.chains import Link


class Svd(Method):
    """W ≈ (U S)(S V), with S the roots of the largest singular values.

    No other two matrices of that rank are nearer to W (Eckart and Young 1936).

    Reference:
        Denton et al. 2014, "Exploiting Linear Structure Within Convolutional Networks for
        Efficient Evaluation", section 3.2, https://arxiv.org/abs/1404.0736. Differs: the singular
        values are shared out between both factors, which keeps their ranges alike for int8.
    """

    name = "svd"
    pointwise = True
    formula = "hwir,ro->hwio"

    @property
    def full(self) -> Ranks:
        return (min(self._matrix().shape),)

    def macs(self, *ranks: Any) -> Any:
        height, width = self.size_out
        return height * width * ranks[0] * sum(self._matrix().shape)

    def kept(self) -> np.ndarray:
        return energy(self._decomposed[0])

    def factors(self, *ranks: int) -> Factors:
        left, right = truncated(self._matrix(), self._decomposed[1], ranks[0])
        return left.reshape(*self.kernel.shape[:3], -1), right

    def links(self, factors: Factors) -> list[Link]:
        left, right = factors
        moved = self.moved(0, 1) if np.ndim(self.layer.kernel) == 4 else {}
        return [self.front("reduce", left, **moved), self.last(right[None, None])]

    @cached_property
    def _decomposed(self) -> tuple[np.ndarray, np.ndarray]:
        return decomposed(self._matrix())

    def _matrix(self) -> np.ndarray:
        return self.kernel.reshape(-1, self.kernel.shape[-1])


def decomposed(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the squares of the singular values and the vectors of the shorter side as columns.

    The largest come first. `truncated` makes factors of any rank from the vectors.
    """
    # Eigenvectors take a tenth of the time of an SVD; in float64 what is lost by squaring is far
    # below the float32 of weights.
    small = matrix.T if matrix.shape[0] < matrix.shape[1] else matrix
    values, vectors = np.linalg.eigh(small.T @ small)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def truncated(matrix: np.ndarray, vectors: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best factors of a rank, `(rows, rank)` and `(rank, columns)`, of like size."""
    if matrix.shape[0] < matrix.shape[1]:
        left, right = truncated(matrix.T, vectors, rank)
        return right.T, left.T
    v = vectors[:, :rank]
    u = matrix @ v  # Times the singular values.
    root = np.sqrt(np.maximum(np.linalg.norm(u, axis=0), 1e-30))
    return u / root, root[:, None] * v.T
