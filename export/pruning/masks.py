"""Which weights stay, the schedule in which the others go, and what keeps zeros zero."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import Protocol

import keras
import numpy as np

from export.pruning.kernels import Kernel
from export.pruning.kernels import kernels


class Pattern(Protocol):
    """What goes together. Matrices are (what one output reads, outputs)."""

    def units(self, scores: np.ndarray) -> np.ndarray:
        """Returns the score of each unit, infinite for one that must stay."""

    def spread(self, kept: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns which weights stay if these units stay."""

    def broken(self, now: np.ndarray, before: np.ndarray) -> bool:
        """Returns whether non-zeros no longer have the pattern that they had."""


@dataclass(frozen=True)
class Block:
    """Blocks of inputs x outputs go as one; 1x1 is the single weight. Edge blocks are smaller."""

    inputs: int = 1
    outputs: int = 1

    def units(self, scores: np.ndarray) -> np.ndarray:
        if self == Block():
            return scores.copy()
        return self._sums(scores) / self._sums(np.ones_like(scores))

    def spread(self, kept: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return kept.repeat(self.inputs, 0).repeat(self.outputs, 1)[: shape[0], : shape[1]]

    def broken(self, now: np.ndarray, before: np.ndarray) -> bool:
        used = [np.count_nonzero(self._sums(m.astype(np.float32))) for m in (now, before)]
        return bool(used[0] > used[1])

    def _sums(self, matrix: np.ndarray) -> np.ndarray:
        rows, columns = (range(0, n, b) for n, b in zip(matrix.shape, self._sides, strict=True))
        return np.add.reduceat(np.add.reduceat(matrix, rows, 0), columns, 1)

    @property
    def _sides(self) -> tuple[int, int]:
        return self.inputs, self.outputs


@dataclass(frozen=True)
class NM:
    """At most `n` of each `m` weights in a row along the inputs of an output stay.

    Reference:
        Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", section 3,
        https://arxiv.org/abs/2104.08378. Differs: the last group of an output whose inputs are
        no multiple of `m` is shorter, as if zeros followed.
    """

    n: int
    m: int

    def units(self, scores: np.ndarray) -> np.ndarray:
        groups = self._groups(scores, -1.0)
        best = np.argsort(-groups, axis=1, kind="stable")[:, : self.n]
        np.put_along_axis(groups, best, np.inf, axis=1)
        return groups.reshape(-1, scores.shape[1])[: len(scores)]

    def spread(self, kept: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return kept

    def broken(self, now: np.ndarray, before: np.ndarray) -> bool:
        return bool((self._groups(now, 0).sum(1) > self.n).any())

    def _groups(self, matrix: np.ndarray, fill: float) -> np.ndarray:
        missing = -len(matrix) % self.m
        full = np.pad(matrix.astype(np.float32), ((0, missing), (0, 0)), constant_values=fill)
        return full.reshape(-1, self.m, matrix.shape[1])


def pattern(text: str) -> Pattern:
    """Returns the pattern called "none", "N:M" or, in inputs x outputs, "AxB"."""
    if text == "none":
        return Block()
    kind: Callable[[int, int], Pattern] = NM if ":" in text else Block
    first, second = text.replace(":", "x").split("x")
    return kind(int(first), int(second))


def select(
    scores: Sequence[np.ndarray],
    fractions: Sequence[float] | np.ndarray,
    *,
    scope: str = "layer",
    pattern: Pattern | None = None,
) -> list[np.ndarray]:
    """Returns, for each matrix of scores >= 0, which weights stay: the others score least.

    No matrix loses all of its weights.

    Args:
        scores: How much each weight matters.
        fractions: Of the units of each matrix, how many go.
        scope: "layer" takes them from each matrix; "global" takes as many in all, wherever
            they score least.
        pattern: What a unit is; None is the single weight.
    """
    pattern = pattern or Block()
    units = [pattern.units(np.asarray(s, np.float32)) for s in scores]
    for u in units:
        u.flat[u.argmax()] = np.inf
    wanted = [f * u.size for f, u in zip(fractions, units, strict=True)]
    if scope == "global":
        kept = _best(np.concatenate([u.ravel() for u in units]), sum(wanted))
        parts = np.split(kept, np.cumsum([u.size for u in units])[:-1])
    else:
        parts = [_best(u.ravel(), w) for u, w in zip(units, wanted, strict=True)]
    return [
        pattern.spread(part.reshape(u.shape), s.shape)
        for part, u, s in zip(parts, units, scores, strict=True)
    ]


def _best(units: np.ndarray, wanted: float) -> np.ndarray:
    """Returns all but the `wanted` least; infinite ones stay."""
    count = min(int(wanted + 0.5), int(np.isfinite(units).sum()))
    kept = np.ones(len(units), bool)
    if count:
        kept[np.argpartition(units, count - 1)[:count]] = False
    return kept


def cubic(progress: float) -> float:
    """Returns the part of the final sparsity that is reached: `1 - (1 - progress)³`.

    Args:
        progress: Part of the ramp that is over, in [0, 1].

    Reference:
        Zhu & Gupta 2017, "To prune, or not to prune", eq. 1, https://arxiv.org/abs/1710.01878,
        with s_i = 0. Differs: nothing.
    """
    return 1 - (1 - progress) ** 3


class Masks(keras.callbacks.Callback):
    """Makes the same weights zero again after every step of training.

    Args:
        kernels: Kernels of the model that is trained.
        kept: For each, which weights may be other than zero.
    """

    def __init__(self, kernels: Sequence[Kernel], kept: Sequence[np.ndarray]) -> None:
        super().__init__()
        self.kernels = list(kernels)
        self.kept = [keras.ops.convert_to_tensor(k, "bool") for k in kept]

    def press(self) -> None:
        """Makes the weights zero now."""
        for kernel, kept in zip(self.kernels, self.kept, strict=True):
            weights = kernel.variable
            weights.assign(keras.ops.where(kept, weights, keras.ops.zeros_like(weights)))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.press()


class Gradual(Masks):
    """Takes weights away while a model is trained, fast at first and then ever fewer.

    A weight that has gone is zero and scores least, so it does not come back.

    Args:
        kernels: Kernels of the model that is trained.
        choose: Gives, for a part of the final sparsity, which weights stay.
        updates: How often an epoch weights are chosen anew.
    """

    def __init__(
        self,
        kernels: Sequence[Kernel],
        choose: Callable[[float], Sequence[np.ndarray]],
        updates: int = 10,
    ) -> None:
        super().__init__(kernels, [np.ones(k.variable.shape, bool) for k in kernels])
        self.choose, self.updates = choose, updates

    def on_train_begin(self, logs: Any = None) -> None:
        self.step, self.steps = 0, self.params["steps"] * self.params["epochs"]
        self.every = max(1, self.params["steps"] // self.updates)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.press()
        self.step += 1
        if self.step % self.every == 0 or self.step == self.steps:
            self.advance(cubic(self.step / self.steps))

    def advance(self, part: float) -> None:
        """Takes away what makes up this part of the final sparsity."""
        self.kept = [keras.ops.convert_to_tensor(k, "bool") for k in self.choose(part)]
        self.press()


@dataclass(frozen=True)
class Zeros:
    """The invariant of sparse kernels: what is zero stays zero, and in its pattern.

    Later passes may cut channels: a kernel of another shape must not have more non-zeros than
    the densest part of that shape that the old one has.

    Attributes:
        kept: By path of a kernel, which of its weights are not zero.
        pattern: The pattern that they have.
    """

    kept: Mapping[str, np.ndarray]
    pattern: Pattern = field(default_factory=Block)

    def keeper(self, model: keras.Model) -> keras.callbacks.Callback | None:
        """Returns a callback that keeps the zeros which the kernels have now."""
        found = [kernel for kernel in kernels(model)[0] if kernel.path in self.kept]
        return Masks(found, [kernel.value() != 0 for kernel in found]) if found else None

    def broken(self, model: keras.Model) -> str:
        """Returns the first kernel that has lost its zeros, or an empty string."""
        now = {kernel.path: kernel for kernel in kernels(model)[0]}
        for path, kept in self.kept.items():
            if path not in now:
                return f"kernel {path}, which has zeros to keep, is no more"
            kernel, values = now[path], now[path].value() != 0
            more = int(values.sum()) - _most(kept, values.shape)
            if values.shape == kept.shape:
                more = int((values & ~kept).sum())
            if more > 0:
                return f"at least {more} removed weights of {path} are not zero any more"
            if self.pattern.broken(kernel.matrix(values), kernel.matrix(kept)):
                return f"the non-zeros of {path} are no longer in the pattern {self.pattern}"
        return ""


def _most(kept: np.ndarray, shape: tuple[int, ...]) -> int:
    """Returns a bound on the non-zeros of any part of `kept` that has `shape`.

    Each output may keep other inputs, as grouped convolutions do.
    """
    if len(shape) != kept.ndim or any(n > m for n, m in zip(shape, kept.shape, strict=True)):
        return 0
    counts = kept.sum(tuple(range(kept.ndim - 2)))  # (inputs, outputs)
    outputs = np.sort(counts, 0)[::-1][: shape[-2]].sum(0)
    return int(np.sort(outputs)[::-1][: shape[-1]].sum())
