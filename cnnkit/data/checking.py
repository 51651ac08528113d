"""`check`: from a data source to a manifest."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Literal

from cnnkit import registry
from cnnkit.data import arrays
from cnnkit.data import folder
from cnnkit.data import groups
from cnnkit.data import measure
from cnnkit.data import near
from cnnkit.data import tfrecord
from cnnkit.data.manifest import SPLITS
from cnnkit.data.manifest import Item
from cnnkit.data.manifest import Kind
from cnnkit.data.manifest import Manifest
from cnnkit.data.manifest import Problem
from cnnkit.data.manifest import is_text
from cnnkit.data.manifest import printable
from cnnkit.data.split import assign
from cnnkit.data.split import deduplicate
from cnnkit.errors import DataError
from cnnkit.errors import UsageError

DIGITS = "digits"
_SOURCES = (
    "a folder with one sub-folder per class, a .npz with x and y, a folder of MNIST IDX files, "
    "a pattern of TFRecord files such as 'photos-*.tfrecord', or the word digits"
)


def check(
    data: str | Path,
    *,
    split: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    on_bad_image: Literal["skip", "fail"] = "skip",
    group_by: str = "",
    near_dups: bool = False,
) -> Manifest:
    """Opens a data source, verifies every picture and divides them into train, val and test.

    Exact copies are dropped, and all copies where their labels disagree. The split is
    stratified and depends on seed and content alone; splits that the source brings stay. A
    group never straddles splits. Nothing is changed on disk.

    Args:
        data: A folder with one sub-folder per class (or with train, val, test that hold
            these), a `.npz`, a folder of MNIST IDX files, a pattern of TFRecord files, or
            `digits`.
        split: Fractions of train, val and test; positive, sum 1.
        seed: Of the split.
        on_bad_image: `skip` leaves bad pictures out and lists them; `fail` refuses the data.
        group_by: What makes a group: `folder` for the folder that a picture lies in, or a regular
            expression that is searched for in its path relative to `data`, whose groups (else
            whose match) name the group; "" for none.
        near_dups: Whether near copies are looked for, by perceptual hashes; they are a group.

    Raises:
        DataError: If the data cannot be used.
        UsageError: If an argument is wrong.
    """
    registry.known("value of on_bad_image", on_bad_image, ("skip", "fail"))
    if near_dups:
        near.require()
    fractions = _fractions(split)
    kind, path = _identify(data)
    if group_by and kind in arrays.READERS:
        raise UsageError("group_by needs pictures with paths", where=printable(path))
    classes, items, problems, facts = _read(kind, path, hashed=near_dups)
    place = "index " if "shape" in facts else ""
    kept, copies = deduplicate(items, place)
    problems += copies
    if on_bad_image == "fail":
        _refuse(problems)
    if group_by:
        kept, more = groups.by_path(kept, group_by)
        problems += more
    if near_dups:
        kept, more = groups.by_likeness(kept, place)
        problems += more
    kept, leaks = groups.keep_apart(kept, place)
    problems += leaks
    _require(printable(path), classes, kept, problems)
    kept = measure.flag_odd_aspects(assign(kept, fractions, seed))
    _require_splits(printable(path), kept)
    statistics = measure.statistics(classes, kept, facts.get("shape"))
    problems += measure.one_sided(statistics.counts)
    if "shape" in facts:  # in columns there is no place for more
        kept = [Item(item.id, item.label, item.split) for item in kept]
    return Manifest(
        kind=kind,
        path=path,
        classes=classes,
        seed=seed,
        fractions=fractions,
        items=kept,
        problems=problems,
        statistics=statistics,
        **facts,
    )


def _fractions(split: Sequence[float]) -> tuple[float, float, float]:
    if len(split) == 3 and min(split) > 0 and math.isclose(sum(split), 1, abs_tol=1e-6):
        return (float(split[0]), float(split[1]), float(split[2]))
    raise UsageError(
        "Wrong split",
        expected="three positive fractions for train, val and test that sum to 1",
        received="/".join(map(str, split)),
    )


def _identify(data: str | Path) -> tuple[Kind, str]:
    """Returns the kind of a source, and its absolute path."""
    if data == DIGITS:
        return "digits", DIGITS
    try:
        if tfrecord.is_pattern(str(data)) and is_text(data):
            return "tfrecord", str(Path(data).resolve())
        path = Path(data).resolve(strict=True)
        if not is_text(path):
            raise ValueError("the path is not valid UTF-8")
        if path.is_dir():
            if arrays.idx_files(path):
                return "idx", str(path)
            if not any(path.iterdir()):
                raise DataError("The folder is empty", where=printable(data), expected=_SOURCES)
            return "folder", str(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            "Cannot open the data",
            where=printable(data),
            expected=_SOURCES,
            received=getattr(error, "strerror", None) or printable(error),
        ) from None
    if path.suffix == ".npz":
        return "npz", str(path)
    raise DataError("Not a data source", where=printable(data), expected=_SOURCES)


def _read(
    kind: Kind, path: str, *, hashed: bool
) -> tuple[list[str], list[Item], list[Problem], dict[str, Any]]:
    """Returns classes, items and problems of a source, and what else its manifest tells."""
    if kind == "folder":
        return *_find(Path(path), hashed=hashed), {}
    if kind == "tfrecord":
        records = tfrecord.read(path, hashed=hashed)
        facts = {"files": records.files, "stamps": records.stamps}
        return records.classes, records.items, records.problems, facts
    source = arrays.READERS[kind](path)
    facts = {"files": source.files, "shape": source.x.shape[1:]}
    return source.classes, source.items(hashed=hashed), [], facts


def _find(root: Path, *, hashed: bool) -> tuple[list[str], list[Item], list[Problem]]:
    try:
        return folder.find(root, hashed=hashed)
    except OSError as error:  # a folder that may be listed but not entered
        raise DataError(
            "Cannot read the folder", where=printable(root), received=error.strerror
        ) from None


def _refuse(problems: Sequence[Problem]) -> None:
    bad = [problem for problem in problems if problem.action != "ignored"]
    if bad:
        first = bad[0]
        raise DataError(
            f"{len(bad)} bad picture{'s' * (len(bad) > 1)}, the first is",
            where=first.path,
            received=f"{first.code}: {first.reason}",
            todo="repair or remove them, or set on_bad_image to skip",
        )


def _require_splits(where: str, items: Sequence[Item]) -> None:
    """Raises if a split is empty."""
    grouped = any(item.group for item in items)
    things = "pictures or groups of pictures" if grouped else "pictures"
    for name in SPLITS:
        if not any(item.split == name for item in items):
            units = {item.group or item.id for item in items}
            raise DataError(
                f"Too few {things}: none is left for {name}",
                where=where,
                expected=f"at least 3 different {things} in one of the classes",
                received=f"{len(units)} in all" if grouped else "",
                todo="let group_by make more groups, smaller ones" if grouped else "",
            )


def _require(
    where: str, classes: Sequence[str], items: Sequence[Item], problems: Sequence[Problem]
) -> None:
    """Raises if a class has no proper name, or there are too few classes or pictures in one."""
    for name in classes:
        if not name.isprintable() or not name.strip():
            raise DataError(
                "This cannot be a class name",
                where=f"'{printable(name)}' of {where}",
                expected="printable characters on one line",
                todo="rename the class",
            )
    if not items:
        skipped = [problem for problem in problems if problem.action == "skipped"]
        first = f", the first: {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise DataError(
            "No usable picture in", where=where, received=f"{len(skipped)} bad ones{first}"
        )
    if len(classes) < 2:
        raise DataError(
            "Only one class in",
            where=f"{where}: {classes[0]}",
            expected="at least two",
            todo="if the class folders lie one level deeper, name the folder that holds them",
        )
    total = Counter(item.label for item in items)
    train = Counter(item.label for item in items if item.split == "train")
    for label, name in enumerate(classes):
        if total[label] < 2 or not train[label]:
            bad = [p for p in problems if p.action == "skipped" and name in p.path.split("/")]
            lost = f"; {len(bad)} bad, first {bad[0].path}: {bad[0].reason}" if bad else ""
            raise DataError(
                "Too few usable pictures in class",
                where=f"{name} of {where}",
                expected="at least 2 different ones, of which 1 for training",
                received=f"{total[label]}, of which {train[label]} for training{lost}",
                todo="add pictures to the class or remove it",
            )
