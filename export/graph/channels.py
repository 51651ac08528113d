"""Numbers for the channels of a model, and what a walk through its layers finds out about them."""

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import TypeAlias

import numpy as np

# One number for each position of a tensor's last axis; a channel that is repeated (Flatten)
# repeats its number.
Ids: TypeAlias = np.ndarray
# By number: whether the channel stays.
Mask: TypeAlias = np.ndarray


@dataclass(frozen=True)
class Filters:
    """The weights of one layer that make channels.

    Attributes:
        path: Name of the layer; inside a nested model, `outer/inner`.
        kernel: Its variable.
        ids: The channels that it makes.
        swapped: Whether the outputs are the last axis but one (transposed convolutions).
    """

    path: str
    kernel: Any
    ids: Ids
    swapped: bool = False

    def matrix(self, values: np.ndarray | None = None) -> np.ndarray:
        """Returns the kernel, or `values` of its shape, as `(weights of a filter, filters)`."""
        values = np.asarray(self.kernel) if values is None else values
        if self.swapped:
            values = values.swapaxes(-1, -2)
        return values.reshape(-1, len(self.ids))


@dataclass
class Site:
    """What channels mean for one layer, at however many places it is called.

    Attributes:
        layer: The Keras layer or operation.
        slices: By `id` of a variable, the channels along each of its axes.
        edits: By key of the layer's config, its value when only some channels stay.
        filters: Set if the layer makes channels.
        seen: Channels of the first call; those of later calls are the same ones.
    """

    layer: Any
    slices: dict[int, dict[int, Ids]] = field(default_factory=dict)
    edits: dict[str, Callable[[Mask], Any]] = field(default_factory=dict)
    filters: Filters | None = None
    seen: dict[Any, Ids] = field(default_factory=dict)


class Channels:
    """All channels of a model: which belong together, and which must stay.

    Attributes:
        protected: By name of a layer, why its channels stay.
        mixing: By name of a normalization whose statistics run over channels, those channels.
    """

    def __init__(self) -> None:
        self.protected: dict[str, str] = {}
        self.mixing: dict[str, Ids] = {}
        self._count = 0
        self._links: list[tuple[Ids, Ids]] = []
        self._fixed: list[Ids] = []

    def new(self, count: int) -> Ids:
        """Returns `count` new numbers."""
        self._count += count
        return np.arange(self._count - count, self._count)

    def same(self, a: Ids, b: Ids) -> None:
        """Notes that channels stay or go together, position by position (broadcast)."""
        a, b = np.broadcast_arrays(a, b)
        self._links.append((a.ravel(), b.ravel()))

    def fix(self, ids: Ids) -> None:
        """Notes that channels must stay."""
        self._fixed.append(ids)

    def units(self) -> tuple[Ids, Mask]:
        """Returns by channel number its unit, and by unit whether it may go.

        A unit is a set of channels that stay or go together, named by its lowest number.
        """
        empty = np.zeros(0, int)
        a = np.concatenate([empty, *(a for a, _ in self._links)])
        b = np.concatenate([empty, *(b for _, b in self._links)])
        unit = np.arange(self._count)
        while True:
            # The units of linked channels hook onto the lower one; then all chains are cut short.
            hooked = unit.copy()
            np.minimum.at(hooked, unit[a], unit[b])
            np.minimum.at(hooked, unit[b], unit[a])
            while (hooked != hooked[hooked]).any():
                hooked = hooked[hooked]
            if (hooked == unit).all():
                break
            unit = hooked
        free = np.ones(self._count, bool)
        free[unit[np.concatenate([empty, *self._fixed])]] = False
        return unit, free
