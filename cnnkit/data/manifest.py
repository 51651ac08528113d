"""The manifest: which pictures there are, in which split, and what was wrong with the others."""

import dataclasses
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Literal
from typing import Self
from typing import TypeAlias

import pydantic

from cnnkit import files
from cnnkit.errors import DataError

Kind: TypeAlias = Literal["digits", "folder", "npz", "idx", "tfrecord"]
Split: TypeAlias = Literal["train", "val", "test"]
Action: TypeAlias = Literal["skipped", "kept", "ignored"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# How people call their splits, in the names of folders and files.
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_DROPPED = "-"


def printable(text: object) -> str:
    """Returns `text` on one line, with escapes for what cannot be printed."""
    return str(text) if str(text).isprintable() else repr(str(text))[1:-1]


def is_text(path: object) -> bool:
    """Returns whether a path can be written as UTF-8; Linux allows any bytes in a name."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one file.

    Args:
        path: Path relative to the source, printable; `index N` of an array; or a class name.
        code: One word for it: `corrupt`, `duplicate`, `animated`, …
        reason: Why, for people.
        action: `skipped` (left out), `kept` (used, after conversion) or `ignored` (never a
            candidate, such as a hidden file; no reason to refuse the data).
    """

    path: str
    code: str
    reason: str
    action: Action


@dataclass(frozen=True, slots=True)
class Item:
    """One picture.

    Args:
        id: Path relative to the source, with `/`; `FILE#NUMBER` of a record; or the index in an
            array, as a string.
        label: Index into the manifest's classes.
        split: The split it belongs to.
        sha256: Of the file's bytes. Empty for arrays, whose files are hashed as wholes.
        width: In pixels, upright; 0 for arrays.
        height: In pixels, upright; 0 for arrays.
        mode: Pillow's mode of the file: `RGB`, `L`, `P`, …
        flags: `rotated`, `transparent`, `odd-aspect`, and codes of problems that did not exclude
            it.
        group: Pictures of one group are in one split; "" is alone.
        phash: Perceptual hash, where near copies were looked for.
        size: Of the file, in bytes; 0 if not known.
        mtime_ns: When the file was last changed, in nanoseconds; 0 if not known.
    """

    id: str
    label: int
    split: Split
    sha256: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    flags: tuple[str, ...] = ()
    group: str = ""
    phash: str = ""
    size: int = 0
    mtime_ns: int = 0


_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(Item)
    if field.default is not dataclasses.MISSING
}


@dataclass(frozen=True, slots=True)
class Spread:
    """The smallest, the middle and the largest of a number."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Returns the spread of at least one value."""
        return cls(min(values), statistics.median(values), max(values))


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the pictures are like.

    Args:
        width: In pixels, upright.
        height: In pixels, upright.
        aspect: Width / height.
        odd_aspect: Pictures more than twice as wide or as high as the median aspect.
        groups: Groups of more than one picture.
        counts: Pictures of each class in each split.
    """

    width: Spread
    height: Spread
    aspect: Spread
    odd_aspect: int
    groups: int
    counts: dict[str, dict[str, int]]


class Manifest(pydantic.BaseModel, extra="forbid"):
    """The result of `check`: everything a later command needs to get the very same pictures.

    In JSON the items of an array source are two columns: `splits`, a string with one digit for
    each index (0 train, 1 val, 2 test, - dropped), and `labels` of those not dropped.

    Args:
        version: Of this layout; `schema` in JSON.
        kind: Sort of source.
        path: Absolute path or pattern of the source, or `digits`.
        classes: Class names; an item's label is an index into them.
        seed: Of the split.
        fractions: Of train, val and test.
        shape: `(height, width, channels)` of an array source.
        files: SHA-256 of each file of an array source or of TFRecord files, by name.
        stamps: Size in bytes and time of the last change in nanoseconds of each TFRecord file.
        items: The usable pictures.
        problems: What was found wrong.
        statistics: What the pictures are like.
    """

    version: Literal[1] = pydantic.Field(1, alias="schema")
    kind: Kind
    path: str
    classes: list[str]
    seed: int
    fractions: tuple[float, float, float]
    shape: tuple[int, int, int] | None = None
    files: dict[str, str] = {}
    stamps: dict[str, tuple[int, int]] = {}
    items: list[Item]
    problems: list[Problem]
    statistics: Statistics | None = None

    def save(self, path: str | Path) -> Path:
        """Writes the manifest as JSON, an item a line, whole or not at all."""
        if self.shape:
            return files.write_json(Path(path), self.model_dump(by_alias=True), indent=None)
        others = self.model_dump(by_alias=True, exclude={"items"})
        head = json.dumps(others, indent=1, ensure_ascii=False).removesuffix("\n}")
        # There may be a million: neither their tables nor their text are in memory at once.
        with files.replacing(Path(path)) as partial, partial.open("w", encoding="utf-8") as file:
            file.write(f'{head},\n "items": [')
            for k, item in enumerate(self.items):
                line = json.dumps(_written(item), ensure_ascii=False)
                file.write(f"{',' if k else ''}\n  {line}")
            file.write("\n ]\n}\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a manifest that `save` wrote.

        Raises:
            DataError: If the file is missing or is no manifest.
        """
        try:
            return cls.model_validate(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise DataError(
                "Cannot read the manifest", where=printable(path), received=error.strerror
            ) from None
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                "Not a data manifest",
                where=printable(path),
                received=printable(_first_line(error)),
                todo="make one with `cnnkit check DATA -o FILE`",
            ) from None

    def select(self, split: str) -> list[Item]:
        """Returns the items of one split, in the order of the manifest."""
        return [item for item in self.items if item.split == split]

    def few(self, split: str, n: int) -> list[Item]:
        """Returns `n` items of a split, evenly spaced, and one of each class that these lack."""
        items = self.select(split)
        n = min(n, len(items))
        chosen = {k * len(items) // n for k in range(n)}
        first = {item.label: k for k, item in reversed([*enumerate(items)])}
        lacking = first.keys() - {items[k].label for k in chosen}
        return [items[k] for k in sorted(chosen | {first[label] for label in lacking})]

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns the number of pictures of each class in each split."""
        return counts(self.classes, self.items)

    def summary(self) -> str:
        """Returns one line: pictures, classes, splits, and problems by code."""
        sizes = ", ".join(f"{split} {sum(n.values())}" for split, n in self.counts().items())
        codes = Counter(problem.code for problem in self.problems)
        problems = ", ".join(f"{n} {code}" for code, n in codes.most_common()) or "none"
        return (
            f"{len(self.items)} pictures in {len(self.classes)} classes ({sizes}); "
            f"problems: {problems}"
        )

    @pydantic.field_serializer("items")
    def _to_columns(self, items: list[Item]) -> Any:
        if not self.shape:
            return items
        splits = [_DROPPED] * (1 + max((int(item.id) for item in items), default=-1))
        for item in items:
            splits[int(item.id)] = str(SPLITS.index(item.split))
        return {"splits": "".join(splits), "labels": [item.label for item in items]}

    @pydantic.field_validator("items", mode="before")
    @classmethod
    def _from_columns(cls, items: Any) -> Any:
        if not isinstance(items, dict):
            return items
        kept = [(i, int(code)) for i, code in enumerate(items["splits"]) if code != _DROPPED]
        return [
            Item(str(i), label, SPLITS[code])
            for (i, code), label in zip(kept, items["labels"], strict=True)
        ]

    @pydantic.model_validator(mode="after")
    def _labels_have_classes(self) -> Self:
        if not all(0 <= item.label < len(self.classes) for item in self.items):
            raise ValueError("an item has a label without a class")
        return self


def counts(classes: Sequence[str], items: Sequence[Item]) -> dict[str, dict[str, int]]:
    """Returns the number of pictures of each class in each split."""
    found = Counter((item.split, item.label) for item in items)
    return {
        split: {name: found[split, label] for label, name in enumerate(classes)} for split in SPLITS
    }


def _written(item: Item) -> dict[str, Any]:
    """Returns what of an item is not as if nothing had been said."""
    return {
        name: value
        for name in item.__slots__
        if (value := getattr(item, name)) != _DEFAULTS.get(name)
    }


def _first_line(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
