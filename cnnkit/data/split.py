"""Dropping copies and dividing into splits, by content: names and order play no part."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cnnkit.data.manifest import SPLITS
from cnnkit.data.manifest import Item
from cnnkit.data.manifest import Problem
from cnnkit.data.manifest import Split
from cnnkit.data.manifest import printable


def deduplicate(items: Sequence[Item], place: str = "") -> tuple[list[Item], list[Problem]]:
    """Keeps one of each set of equal pictures, and none where the labels disagree.

    Of copies in several splits, the one in test stays, else the one in val: what is held out
    must not be learned.

    Args:
        items: With `sha256`.
        place: Put before an item's id in problems.

    Returns:
        The items that stay, in the same order, and a problem for each other one.
    """
    copies = defaultdict(list)
    for item in items:
        copies[item.sha256].append(item)
    dropped = {}
    for same in copies.values():
        if len({item.label for item in same}) > 1:
            for item in same:
                other = next(each for each in same if each.label != item.label)
                reason = f"label conflict: the same picture in another class is {place}{other.id}"
                dropped[item.id] = ("conflict", reason)
        else:
            first = max(same, key=lambda item: SPLITS.index(item.split))
            for item in same:
                if item is not first:
                    dropped[item.id] = ("duplicate", f"the same picture as {place}{first.id}")
    problems = [
        Problem(printable(place + id), code, printable(reason), "skipped")
        for id, (code, reason) in dropped.items()
    ]
    return [item for item in items if item.id not in dropped], problems


def assign(items: Sequence[Item], fractions: Sequence[float], seed: int) -> list[Item]:
    """Cuts the splits that the source does not bring from its train items, class by class.

    Within a class the pictures are ordered by a hash of seed and content, so a renamed file
    stays in its split. Groups go first, the largest ones before others, each to the split where
    it is missed most; then single pictures fill up what is missing in each class.

    Args:
        items: With `sha256`, `group`, and the split that the source put them in (train if it has
            none).
        fractions: Of train, val and test.
        seed: Another seed, another split.

    Returns:
        The items in the same order, with their final split.

    Reference:
        scikit-learn's `StratifiedGroupKFold`. Differs: splits of any size, where folds are equal;
        the order of equal groups is by content; every class
        is in train, and in each split if it has as many groups and single pictures.
    """
    brought = {item.split for item in items} - {"train"}
    wanted = [split for split in SPLITS if split not in brought]
    weights = [fractions[SPLITS.index(split)] for split in wanted]
    units = defaultdict(list)
    for item in items:
        if item.split == "train":
            units[item.group or f"\0{item.sha256}"].append(item)

    def order(unit: list[Item]) -> tuple[int, bytes]:
        content = min(item.sha256 for item in unit)
        return -len(unit), hashlib.sha256(f"{seed} {content}".encode()).digest()

    table = _Table(list(units.values()), weights)
    final: dict[str, Split] = {}
    singles = defaultdict(list)
    for unit in sorted(units.values(), key=order):
        if len(unit) == 1:
            singles[unit[0].label].append(unit[0])
        else:
            split = wanted[table.place(unit)]
            final.update((item.id, split) for item in unit)
    for label, pool in singles.items():
        places = [wanted[k] for k, n in enumerate(table.fill(label, len(pool))) for _ in range(n)]
        final.update((item.id, split) for item, split in zip(pool, places, strict=True))
    return [
        item
        if (split := final.get(item.id, item.split)) == item.split
        else replace(item, split=split)
        for item in items
    ]


class _Table:
    """How many pictures of each class each split shall have, and has."""

    def __init__(self, units: Sequence[Sequence[Item]], weights: Sequence[float]) -> None:
        sizes = np.bincount([item.label for unit in units for item in unit])
        self.wanted = np.array([shares(n, weights) if n else [0] * len(weights) for n in sizes])
        self.placed = np.zeros_like(self.wanted)
        # Groups and single pictures of each class that are still to be placed.
        self.left = np.bincount(
            [label for unit in units for label in {item.label for item in unit}],
            minlength=len(sizes),
        )

    def place(self, unit: Sequence[Item]) -> int:
        """Puts a group where the chi-squared distance to what is wanted becomes least."""
        labels, counts = np.unique([item.label for item in unit], return_counts=True)
        n, placed, wanted = counts[:, np.newaxis], self.placed[labels], self.wanted[labels]
        cost = (n * (n + 2 * (placed - wanted)) / np.maximum(wanted, 0.5)).sum(0)
        # No more of a class than it has empty splits: then it must go into one of these.
        empty = placed == 0
        last = self.left[labels] <= empty.sum(1)
        lost = (last[:, np.newaxis] & ~empty).sum(0)
        lost[1:] += (empty[:, 0] & (self.left[labels] == 1)).sum()  # the first split is train
        best = int(np.lexsort((-np.arange(len(cost)), cost, lost))[0])
        self.placed[labels, best] += counts
        self.left[labels] -= 1
        return best

    def fill(self, label: int, n: int) -> list[int]:
        """Returns how many of the `n` last pictures of a class go to each split."""
        missing = np.maximum(self.wanted[label] - self.placed[label], 0)
        empty = self.placed[label] == 0
        places = np.flatnonzero(empty if n <= empty.sum() else missing)
        counts = np.zeros_like(missing)
        counts[places] = shares(n, np.maximum(missing[places], 1).tolist())
        return counts.tolist()


def shares(n: int, weights: Sequence[float]) -> list[int]:
    """Divides `n` >= 1 things by weight (largest remainders), no share empty if `n` allows.

    Too few things go to the first share, then to the last ones.
    """
    if n < len(weights):
        return [1, *[0] * (len(weights) - n), *[1] * (n - 1)]
    exact = [n * weight / sum(weights) for weight in weights]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: n - sum(counts)]:
        counts[i] += 1
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts
