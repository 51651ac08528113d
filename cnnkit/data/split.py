"""Dropping copies and dividing into splits, by content: names and order play no part."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

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
    stays in its split.

    Args:
        items: With `sha256`, and the split that the source put them in (train if it has none).
        fractions: Of train, val and test.
        seed: Another seed, another split.

    Returns:
        The items in the same order, with their final split.
    """
    brought = {item.split for item in items} - {"train"}
    wanted = [split for split in SPLITS if split not in brought]
    weights = [fractions[SPLITS.index(split)] for split in wanted]
    classes = defaultdict(list)
    for item in items:
        if item.split == "train":
            classes[item.label].append(item)
    final: dict[str, Split] = {}
    for pool in classes.values():
        pool.sort(key=lambda item: hashlib.sha256(f"{seed} {item.sha256}".encode()).digest())
        places = [
            split
            for split, n in zip(wanted, shares(len(pool), weights), strict=True)
            for _ in range(n)
        ]
        final.update((item.id, split) for item, split in zip(pool, places, strict=True))
    return [replace(item, split=final.get(item.id, item.split)) for item in items]


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
