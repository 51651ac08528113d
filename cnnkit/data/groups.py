"""Groups of pictures that must not be divided: by their paths, and because they are near copies."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from cnnkit.data import near
from cnnkit.data.manifest import SPLITS
from cnnkit.data.manifest import Item
from cnnkit.data.manifest import Problem
from cnnkit.data.manifest import printable
from cnnkit.errors import UsageError

FOLDER = "folder"
_TIMEOUT_S = 20.0
# The part of all pictures above which a group of near copies is none, unless they are few.
_CHAIN, _FEW = 0.1, 20
_COPY, _CONFLICT = "near-copy", "near-conflict"
_NEAR = {_COPY, _CONFLICT}
# A pattern can take for ever, and `re` has no limit of time: a child process can be given one.
_SEARCH = """
import json, re, sys
pattern, paths = json.load(sys.stdin)
found = map(re.compile(pattern).search, paths)
json.dump([m and "/".join(filter(None, m.groups() or [m[0]])) for m in found], sys.stdout)
"""


def keys(paths: Sequence[str], group_by: str) -> list[str]:
    """Returns the name of each path's group, "" where it has none.

    Args:
        paths: Relative to the source.
        group_by: `folder` for the folder that a picture lies in; else a regular expression,
            searched for in the path. The text of its groups, or else all that it matched, is the
            name.

    Raises:
        UsageError: If the expression is invalid, takes too long, or matches no path.
    """
    if group_by == FOLDER:
        return [str(PurePosixPath(path).parent) for path in paths]
    try:
        re.compile(group_by)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            "group_by is no regular expression", where=printable(group_by), received=error
        ) from None
    names = _search(group_by, paths)
    if not any(names):
        raise UsageError(
            "group_by matches no picture",
            where=printable(group_by),
            expected="a regular expression that is found in paths such as "
            + ", ".join(map(printable, paths[:: max(1, len(paths) // 3)][:3])),
        )
    return names


def _search(pattern: str, paths: Sequence[str]) -> list[str]:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-W", "ignore", "-c", _SEARCH],
            input=json.dumps([pattern, list(paths)]),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"group_by takes more than {_TIMEOUT_S:g} s",
            where=printable(pattern),
            todo="take repetitions out of repetitions, such as (a+)+",
        ) from None
    return [name or "" for name in json.loads(done.stdout)]


def by_path(items: Sequence[Item], group_by: str) -> tuple[list[Item], list[Problem]]:
    """Returns the items with their groups, and a problem if some paths have none.

    Raises:
        UsageError: As `keys` does.
    """
    names = keys([item.id for item in items], group_by)
    alone = [item.id for item, name in zip(items, names, strict=True) if not name]
    problems = []
    if alone:
        more = f", nor {len(alone) - 1} others" if len(alone) > 1 else ""
        reason = f"group_by does not match it{more}: each is a group of its own"
        problems.append(Problem(printable(alone[0]), "no-group", reason, "kept"))
    return [replace(item, group=name) for item, name in zip(items, names, strict=True)], problems


def by_likeness(items: Sequence[Item], place: str = "") -> tuple[list[Item], list[Problem]]:
    """Joins the groups of near copies, and flags these.

    Args:
        items: With `phash`, and with the groups that they have already.
        place: Put before an item's id in problems.

    Returns:
        The items in the same order, and a problem for each that is a near copy of an earlier
        one: `near-conflict` where their labels differ.
    """
    sets = _Sets(items)
    closest: dict[int, tuple[bool, int, int]] = {}
    flags = defaultdict(set)
    for i, j, bits in near.pairs([item.phash for item in items]):
        sets.join(i, j)
        same = items[i].label == items[j].label
        closest[j] = min(closest.get(j, (True, near.BITS, i)), (same, bits, i))
        for k in (i, j):
            flags[k].add(_COPY if same else _CONFLICT)
    problems = []
    for j, (same, bits, i) in sorted(closest.items()):
        reason = f"its hash differs in {bits} of {near.BITS} bits from {place}{items[i].id}"
        if same:
            code, reason = _COPY, f"{reason}: they are one group"
        else:
            code, reason = _CONFLICT, f"{reason}, in another class: one label may be wrong"
        problems.append(Problem(printable(place + items[j].id), code, printable(reason), "kept"))
    found = [
        replace(item, group=name, flags=(*item.flags, *sorted(flags[k])))
        for k, (item, name) in enumerate(zip(items, sets.names(), strict=True))
    ]
    return found, problems + _chains(found, place)


def _chains(items: Sequence[Item], place: str) -> list[Problem]:
    """Returns a problem if so many pictures are near copies of each other that none may be."""
    members = Counter(item.group for item in items if not _NEAR.isdisjoint(item.flags))
    name, n = max(members.items(), key=lambda pair: pair[1], default=("", 0))
    if n <= max(_CHAIN * len(items), _FEW):
        return []
    reason = (
        f"{n} of {len(items)} pictures are one group of near copies: such pictures may be too much "
        "alike for perceptual hashes, as characters are"
    )
    return [Problem(printable(place + name), "near-chain", reason, "kept")]


def keep_apart(items: Sequence[Item], place: str = "") -> tuple[list[Item], list[Problem]]:
    """Drops what a source has put in one split although its group is held out in another.

    Of train, val and test, the last one keeps its pictures of a group, as with copies: what is
    held out must not be learned.
    """
    last: dict[str, Item] = {}
    for item in items:
        if item.group:
            last[item.group] = max(last.get(item.group, item), item, key=_rank)
    leaks = [item for item in items if item.group and _rank(item) < _rank(last[item.group])]
    problems = [
        Problem(
            printable(place + item.id),
            "leak",
            printable(f"of one group with {place}{other.id}, which is held out in {other.split}"),
            "skipped",
        )
        for item in leaks
        for other in [last[item.group]]
    ]
    dropped = {item.id for item in leaks}
    return [item for item in items if item.id not in dropped], problems


def _rank(item: Item) -> int:
    return SPLITS.index(item.split)


class _Sets:
    """Disjoint sets of items, to begin with their groups."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.parents = list(range(len(items)))
        first: dict[str, int] = {}
        for k, item in enumerate(items):
            if item.group:
                self.join(first.setdefault(item.group, k), k)

    def root(self, k: int) -> int:
        while self.parents[k] != k:
            self.parents[k] = k = self.parents[self.parents[k]]
        return k

    def join(self, i: int, j: int) -> None:
        low, high = sorted((self.root(i), self.root(j)))
        self.parents[high] = low

    def names(self) -> Iterable[str]:
        """Yields the name of each item's set: a group's that is in it, else its first id, or ""."""
        members = defaultdict(list)
        for k in range(len(self.items)):
            members[self.root(k)].append(self.items[k])
        names = {}
        for root, some in members.items():
            named = next((item.group for item in some if item.group), "")
            names[root] = named or (some[0].id if len(some) > 1 else "")
        return (names[self.root(k)] for k in range(len(self.items)))
