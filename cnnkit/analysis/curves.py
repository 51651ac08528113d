"""What the curves of a training say about its learning rate and its network, in words.

Thresholds are rules of thumb: they are where the words begin. Of fewer than five epochs nothing is
said, and nothing of the rate where a network has learned its training pictures in spite of it.

Reference:
    Wei 2017, "Analyzing Convolutional Neural Networks", sections 10.5 and 11.2.2, figures 10.5 and
    11.2. Differs: the book draws the curves and leaves it to the reader to tell them apart; a
    network far better on training than on validation pictures is said to over-fit even if its
    validation curve does not fall.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from statistics import pstdev
from typing import TypeAlias

Row: TypeAlias = Mapping[str, float]

GOOD = "good rate"
# Epochs below which a curve has no shape.
_EPOCHS, _PHASE = 5, 4
# Accuracies: training pictures have been learned; nothing to complain of; hardly anything learned.
_LEARNED, _LOW, _HALF = 0.95, 0.9, 0.5
# Ratios of losses: of an explosion, of a fall that deserves the name, and of one that is not slow.
_EXPLODED, _FALLEN, _FAST = 3.0, 0.5, 0.3
# Share of the way of a loss that goes up: where it is a zigzag, and where it is none.
_ZIGZAG, _SMOOTH = 0.25, 0.1
# Deviation of a zigzag, relative to the loss; that of a plateau is smaller.
_SWING = 0.03
# Fall in the second half of the epochs, relative to the first: of a curve that hardly bends.
_STRAIGHT = 0.4
# Differences of accuracies: between splits that are far apart, and in the course of time.
_FAR, _DROP = 0.1, 0.03


@dataclass(frozen=True)
class Finding:
    """One thing that curves say.

    Attributes:
        name: "exploding rate", "rate too high", "rate too low", `GOOD`, "under-fitting" or
            "over-fitting".
        text: What is seen and, unless it is good, what to do.
    """

    name: str
    text: str


def diagnosis(rows: Sequence[Row]) -> list[Finding]:
    """Returns what the rows of `metrics.csv` say: of the learning rate, then of the network.

    Args:
        rows: One for each epoch, with `loss`, `accuracy` and `lr`, and `val_accuracy` if there are
            validation pictures.

    Example:
        >>> losses = (2.0, 0.7, 0.4, 0.3, 0.25)
        >>> rows = [{"epoch": k, "loss": x, "accuracy": 0.9} for k, x in enumerate(losses, 1)]
        >>> [finding.name for finding in diagnosis([{**row, "lr": 0.1} for row in rows])]
        ['good rate']
    """
    exploded = _exploding(rows)
    if exploded or len(rows) < _EPOCHS:
        return [exploded] if exploded else []
    rate = _wrong_rate(rows)
    fit = _over_fitting(rows) or (None if rate else _under_fitting(rows))
    return [finding for finding in (rate or _good(rows), fit) if finding]


def _exploding(rows: Sequence[Row]) -> Finding | None:
    """Finds the yellow curve of figure 11.2."""
    losses = [row["loss"] for row in rows]
    for k, loss in enumerate(losses):
        lost = loss > max(losses[0], _EXPLODED * min(losses[: k + 1])) and not _learned(rows)
        if not math.isfinite(loss) or lost:
            return _explosion(rows, max(0, k - 1), k)
    # Within the first epoch, which leaves no network that could learn.
    if len(rows) > 1 and losses[0] > _EXPLODED * losses[1] and rows[-1]["accuracy"] < _HALF:
        return _explosion(rows, 0, 1)
    return None


def _explosion(rows: Sequence[Row], *epochs: int) -> Finding:
    rate = max(row["lr"] for row in rows) / 10
    return Finding(
        "exploding rate",
        f"the loss explodes ({_course(rows, *epochs)}): train again from the start with a far "
        f"lower learning rate, such as {rate:.2g}",
    )


def _learned(rows: Sequence[Row]) -> bool:
    return rows[-1]["accuracy"] >= _LEARNED


def _wrong_rate(rows: Sequence[Row]) -> Finding | None:
    """Finds the green and the blue curve of figure 11.2, while the rate is high."""
    last = rows[-1]["accuracy"]
    stuck = last < min(_HALF, rows[0]["accuracy"] + _DROP)
    most = max(row["lr"] for row in rows)
    phase = rows if stuck else [row for row in rows if row["lr"] > most / 3]
    if _learned(rows) or len(phase) < _PHASE:
        return None
    losses = [row["loss"] for row in phase]
    middle, end = len(losses) // 2, len(losses) - 1
    up, seen = _upwards(losses), _course(phase, 0, middle, end)
    swings = pstdev(losses[middle:]) > _SWING * fmean(losses[middle:])
    if (stuck and up > _SMOOTH) or (swings and up >= _ZIGZAG):
        return Finding(
            "rate too high",
            f"the loss {'does not fall' if stuck else 'falls at first, and then no more'} ({seen}):"
            " the learning rate is too high; train again with a lower one, or lower it for the "
            "last epochs (train.schedule)",
        )
    first, second = losses[0] - losses[middle], losses[middle] - losses[end]
    slow = second >= _STRAIGHT * first and rows[-1]["loss"] > _FAST * rows[0]["loss"]
    if up <= _SMOOTH and (stuck or slow):
        return Finding(
            "rate too low",
            f"the loss falls slowly all the time ({seen}): raise the learning rate a little",
        )
    return None


def _upwards(losses: Sequence[float]) -> float:
    """Returns which share of the way of a loss goes up, its first fall left out."""
    steps = [after - before for before, after in itertools.pairwise(losses)]
    steps = steps[steps[0] < 0 :]
    way = sum(map(abs, steps))
    return sum(step for step in steps if step > 0) / way if way else 1.0


def _good(rows: Sequence[Row]) -> Finding | None:
    """Finds the red curve of figure 11.2."""
    if rows[-1]["loss"] > _FALLEN * rows[0]["loss"]:
        return None
    seen = _course(rows, 0, len(rows) // 2, len(rows) - 1)
    return Finding(GOOD, f"the loss falls fast, then levels off ({seen}): the learning rate fits")


def _over_fitting(rows: Sequence[Row]) -> Finding | None:
    """Finds figure 10.5b: validation falls away from training, or is far below it."""
    if any("val_accuracy" not in row for row in rows):
        return None
    # Of three epochs each, since small validation splits are noisy.
    train, val = (
        [fmean(row[key] for row in rows[k : k + 3]) for k in range(len(rows) - 2)]
        for key in ("accuracy", "val_accuracy")
    )
    best = max(range(len(val)), key=val.__getitem__)
    falls = val[best] - val[-1] >= _DROP and train[-1] >= train[best]
    gap = train[-1] - val[-1]
    if gap < _FAR and not (falls and gap > 0):
        return None
    if falls:
        seen = f"validation accuracy falls from {val[best]:.1%} to {val[-1]:.1%}, while training "
        seen += f"reaches {train[-1]:.1%}"
    else:
        seen = f"{train[-1]:.1%} of the training pictures are right, but {val[-1]:.1%} of the "
        seen += "validation pictures"
    return Finding(
        "over-fitting",
        f"over-fitting: {seen}: more regularization (train.weight_decay, dropout), a smaller "
        "network, or more and more varied pictures would help",
    )


def _under_fitting(rows: Sequence[Row]) -> Finding | None:
    """Finds figure 10.5a: training and validation end low and close to each other."""
    if any("val_accuracy" not in row for row in rows):
        return None
    quarter = max(2, len(rows) // 4)
    last, before = rows[-quarter:], rows[-2 * quarter : -quarter]
    train, val = (fmean(row[key] for row in last) for key in ("accuracy", "val_accuracy"))
    rises = train - fmean(row["accuracy"] for row in before) >= _DROP
    if max(train, val) >= _LOW or abs(train - val) >= _FAR or rises:
        return None
    return Finding(
        "under-fitting",
        f"under-fitting: only {train:.1%} of the training and {val:.1%} of the validation pictures "
        "are right: more layers, more channels (model.width) or less regularization would help",
    )


def _course(rows: Sequence[Row], *epochs: int) -> str:
    shown = (rows[k] for k in dict.fromkeys(epochs))
    return ", ".join(f"{row['loss']:.3g} in epoch {row['epoch']:.0f}" for row in shown)
