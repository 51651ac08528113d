"""Where int8 loses accuracy: the noise that each layer's rounding brings, layer by layer.

The int8 twin of a model is run with all roundings off, with one on, and with all on. That needs
no converter, and says for each layer what its weights and its activations cost by themselves,
which a comparison of one tensor with the other cannot: there all the noise from before is in it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from collections.abc import Iterable
from dataclasses import asdict
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from export.quantization.fake_quant import Range

if TYPE_CHECKING:
    import keras

    from export.quantization.twin import Twin

_BATCH = 32


@dataclass(frozen=True)
class Row:
    """What int8 does to one layer. What it does not have is None.

    Attributes:
        layer: Its name; for the pixels, that of the input.
        kind: Class of the layer.
        weights_db: Signal to noise of the model's logits when only its weights are int8.
        activations_db: The same when only what it gives is int8, after a fused activation.
        changed: Fraction of pictures whose class changes when only this layer is int8.
        reached_db: Signal to noise of what it gives when the whole model is int8.
        low: Smallest value that its activations took, or the end of a range that is fixed.
        high: Largest one.
    """

    layer: str
    kind: str
    weights_db: float | None = None
    activations_db: float | None = None
    changed: float = 0.0
    reached_db: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def alone_db(self) -> float:
        """The lower one of the two signals to noise that are its own doing."""
        return min(x for x in (self.weights_db, self.activations_db, math.inf) if x is not None)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(model: keras.Model, x: np.ndarray, *, pixels: bool = True) -> list[Row]:
    """Returns a row for every layer that int8 rounds something of, in order of computation.

    The ranges are the smallest and largest values on `x`, as the TFLite converter takes them.
    A network of n layers runs up to 3 n times.

    Args:
        model: Functional or built sequential classifier. It is not changed.
        x: Pictures, as the model takes them; 64 of them rank the layers well.
        pixels: Whether they are raw pixels 0-255, so that their own rounding costs nothing.

    Raises:
        UsageError: If the model cannot be simulated in int8.
    """
    from cnnkit.analysis.logits import logits
    from export.quantization.twin import Twin

    twin = Twin(logits(model), pixels)
    run = _Runs(twin, x)
    rows = []
    for name, kind, weights, range_ in _places(twin):
        alone = {part: run.only([part]) for part in (weights, range_) if part is not None}
        (_, changed), *more = alone.values()
        if more:
            changed = run.only(list(alone))[1]
        rows.append(
            Row(
                name,
                kind,
                weights_db=alone[weights][0] if weights is not None else None,
                activations_db=alone[range_][0] if range_ is not None else None,
                changed=changed,
                reached_db=run.reached.get(range_),
                low=run.limits[range_][0] if range_ is not None else None,
                high=run.limits[range_][1] if range_ is not None else None,
            )
        )
    return rows


def worst(rows: Iterable[Row], count: int = 3) -> list[Row]:
    """Returns the layers whose own rounding costs most, the worst first."""
    return sorted(rows, key=lambda row: row.alone_db)[:count]


def table(rows: Iterable[Row]) -> str:
    """Returns the rows as a Markdown table; the three worst layers are marked."""
    rows = list(rows)
    marked = {row.layer for row in worst(rows)}
    lines = [
        "| layer | kind | weights alone dB | activations alone dB | classes changed alone "
        "| reached dB | range | |",
        f"|{'---|' * 8}",
    ]
    for row in rows:
        noise = (row.weights_db, row.activations_db)
        cells = [
            *("" if value is None else f"{value:.1f}" for value in noise),
            f"{row.changed:.1%}",
            "" if row.reached_db is None else f"{row.reached_db:.1f}",
            "" if row.low is None else f"{row.low:.3g} to {row.high:.3g}",
            "worst" if row.layer in marked else "",
        ]
        lines.append(f"| {row.layer} | {row.kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def decibels(signal: float, noise: float) -> float:
    """Returns a ratio of powers in decibels; infinite without noise."""
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf


class _Runs:
    """A twin that is run with some of its roundings.

    Attributes:
        limits: By range, the values that were seen.
        reached: By range, the signal to noise of its tensor when everything is rounded.
    """

    def __init__(self, twin: Twin, x: np.ndarray) -> None:
        self.model = twin.model
        self.x = np.asarray(x, np.float32)
        self.weighted = [layer for _, layer in twin._build.kernels]
        self.ranges = [op for op in self.model.layers if isinstance(op, Range)]
        self.limits = {layer: layer.limits or (math.inf, -math.inf) for layer in self.ranges}
        self.want = self._all([], self._see)
        for layer in self.ranges:
            if layer.limits is None:
                low, high = self.limits[layer]
                layer.low.assign(np.full(layer.low.shape, min(low, 0.0)))
                layer.high.assign(np.full(layer.high.shape, max(high, 0.0)))
        self.reached = self._reached()

    def only(self, parts: Collection[Any]) -> tuple[float, float]:
        """Returns the signal to noise of the logits, and how many classes change, with these on."""
        got = self._all(parts)
        noise = decibels(np.square(self.want).sum(), np.square(got - self.want).sum())
        return noise, float(np.mean(got.argmax(-1) != self.want.argmax(-1)))

    def _see(self, layer: Range, x: Any) -> None:
        if layer.limits is None:
            low, high = self.limits[layer]
            values = np.asarray(x)
            self.limits[layer] = min(low, float(values.min())), max(high, float(values.max()))

    def _reached(self) -> dict[Any, float]:
        sums: dict[Any, np.ndarray] = {layer: np.zeros(2) for layer in self.ranges}
        for start in range(0, len(self.x), _BATCH):
            batch = self.x[start : start + _BATCH]
            seen: dict[Any, list[np.ndarray]] = {layer: [] for layer in self.ranges}

            def keep(layer: Range, x: Any, seen: dict[Any, list[np.ndarray]] = seen) -> None:
                seen[layer].append(np.asarray(x, np.float64))

            self._run(batch, [], keep)
            floats = {layer: values[:] for layer, values in seen.items()}
            for values in seen.values():
                values.clear()
            self._run(batch, [*self.weighted, *self.ranges], keep)
            for layer in self.ranges:
                for want, got in zip(floats[layer], seen[layer], strict=True):
                    sums[layer] += np.square(want).sum(), np.square(got - want).sum()
        return {layer: decibels(*total) for layer, total in sums.items()}

    def _all(self, parts: Collection[Any], keep: Any = None) -> np.ndarray:
        starts = range(0, len(self.x), _BATCH)
        return np.concatenate([self._run(self.x[k : k + _BATCH], parts, keep) for k in starts])

    def _run(self, batch: np.ndarray, parts: Collection[Any], keep: Any = None) -> np.ndarray:
        """Returns the logits with the given roundings on; `keep` sees what every range gives."""
        on = set(map(id, parts))

        def ranged(layer: Range) -> Any:
            def call(x: Any, **arguments: Any) -> Any:
                x = layer(x, **arguments) if id(layer) in on else x
                if keep is not None:
                    keep(layer, x)
                return x

            return call

        for layer in self.weighted:
            layer.plain = id(layer) not in on
        try:
            made = self.model._run_through_graph(
                [batch], lambda op: ranged(op) if isinstance(op, Range) else op
            )
        finally:
            for layer in self.weighted:
                layer.plain = False
        return np.asarray(made[0] if isinstance(made, list) else made)


def _places(twin: Twin) -> list[tuple[str, str, Any, Any]]:
    """Returns name, kind, weighted layer and range of every operation that has one of the two."""
    plan, build = twin.plan, twin._build
    weighted = {layer.name: layer for _, layer in build.kernels}
    found: list[tuple[str, str, Any, Any]] = [
        (twin.model.inputs[0].name, "InputLayer", None, build.ranges["input"])
    ]
    for op in plan.ops:
        if op.inputs[0] in plan.inner:
            continue  # It is fused into one before.
        last = op
        while last.outputs[0] in plan.inner:
            (last,) = plan.readers(last.outputs[0])
        # A grid that several tensors share is shown where it has its name from.
        layer, range_ = weighted.get(op.path), build.ranges.get(last.path)
        if layer is not None or range_ is not None:
            found.append((op.path, type(op.operation).__name__, layer, range_))
    return found
