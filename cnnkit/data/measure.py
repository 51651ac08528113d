"""Sizes and counts of what was found: statistics, odd shapes, classes that a split lacks."""

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import replace

from cnnkit.data.manifest import Item
from cnnkit.data.manifest import Problem
from cnnkit.data.manifest import Spread
from cnnkit.data.manifest import Statistics
from cnnkit.data.manifest import counts
from cnnkit.data.manifest import printable

ODD_ASPECT = "odd-aspect"
_ODD = 2.0


def statistics(
    classes: Sequence[str], items: Sequence[Item], shape: tuple[int, int, int] | None = None
) -> Statistics:
    """Returns what pictures are like; `shape` is that of an array source."""
    height, width = shape[:2] if shape else (0, 0)
    sizes = [(item.width or width, item.height or height) for item in items]
    members: dict[str, int] = {}
    for item in items:
        if item.group:
            members[item.group] = members.get(item.group, 0) + 1
    return Statistics(
        Spread.of([w for w, _ in sizes]),
        Spread.of([h for _, h in sizes]),
        Spread.of([w / h for w, h in sizes]),
        sum(ODD_ASPECT in item.flags for item in items),
        sum(n > 1 for n in members.values()),
        counts(classes, items),
    )


def flag_odd_aspects(items: Sequence[Item]) -> list[Item]:
    """Flags pictures more than twice as wide, or as high, for their area as the median one."""
    aspects = [item.width / item.height for item in items if item.height]
    if not aspects:
        return list(items)
    middle = Spread.of(aspects).median

    def odd(item: Item) -> bool:
        return not middle / _ODD <= item.width / item.height <= middle * _ODD

    return [replace(item, flags=(*item.flags, ODD_ASPECT)) if odd(item) else item for item in items]


def one_sided(found: Mapping[str, Mapping[str, int]]) -> list[Problem]:
    """Returns a problem for each class that one of the splits lacks."""
    problems = []
    for name in found["train"]:
        missing = [split for split in found if not found[split][name]]
        if missing:
            reason = f"no picture of this class in {' and '.join(missing)}"
            problems.append(Problem(printable(name), "one-sided-class", reason, "kept"))
    return problems
