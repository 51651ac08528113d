"""The source that most people have: a folder of class folders."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cnnkit.data import pictures
from cnnkit.data.manifest import SPLIT_NAMES
from cnnkit.data.manifest import Action
from cnnkit.data.manifest import Item
from cnnkit.data.manifest import Problem
from cnnkit.data.manifest import Split
from cnnkit.data.manifest import is_text
from cnnkit.data.manifest import printable
from cnnkit.errors import DataError

_SYSTEM_FILES = ("Thumbs.db", "desktop.ini", "__MACOSX")


def find(root: Path, *, hashed: bool = False) -> tuple[list[str], list[Item], list[Problem]]:
    """Finds and verifies the pictures of a folder.

    The folder holds a folder a class, or `train` with `val` (or `valid`, `validation`) or
    `test` that hold these. Pictures may lie deeper in a class folder.

    Args:
        root: An existing folder, resolved.
        hashed: Whether perceptual hashes are wanted.

    Returns:
        The class names, the usable pictures in the order of their ids, and the problems.

    Raises:
        DataError: If there are no class folders.
    """
    walk = _Walk(root)
    names = set()
    candidates = []
    for split, entries in walk.parts():
        for entry in entries:
            if not entry.is_dir():
                walk.note(entry, "stray", "a file outside the class folders", "ignored")
                continue
            before = len(walk.problems)
            paths = sorted(walk.pictures(entry))
            candidates += [(split, entry.name, path) for path in paths]
            # A class whose files are all out of reach is still a class, and will be missed.
            if paths or any(p.action == "skipped" for p in walk.problems[before:]):
                names.add(entry.name)
            else:
                walk.note(entry, "empty-class", "holds no files, so it is no class", "ignored")
    if not names:
        raise DataError(
            "No class folders with pictures in",
            where=printable(root),
            expected="a sub-folder for each class, named after it, with its pictures",
            received="; ".join(f"{p.path}: {p.reason}" for p in walk.problems[:3]),
        )
    classes = sorted(names)
    items = []
    verify = partial(_verify, hashed=hashed)
    for (split, name, path), result in zip(
        candidates, pictures.in_parallel(verify, [path for _, _, path in candidates]), strict=True
    ):
        if isinstance(result, pictures.PictureError):
            walk.note(path, result.code, result.reason)
            continue
        facts = result.facts
        for code, reason in facts.remarks.items():
            walk.note(path, code, reason, "kept")
        items.append(
            Item(
                path.relative_to(root).as_posix(),
                classes.index(name),
                split,
                result.sha256,
                facts.width,
                facts.height,
                facts.mode,
                (*facts.flags, *facts.remarks),
                phash=facts.phash,
                size=result.size,
                mtime_ns=result.mtime_ns,
            )
        )
    return classes, items, walk.problems


class _Walk:
    """Lists a tree in a fixed order, never leaves it, and notes what it passes over."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[Problem] = []

    def note(self, path: Path, code: str, reason: str, action: Action = "skipped") -> None:
        place = printable(path.relative_to(self.root).as_posix())
        self.problems.append(Problem(place, code, reason, action))

    def parts(self) -> list[tuple[Split, list[Path]]]:
        """Returns the contents of each folder that holds class folders, with its split."""
        entries = list(self.visible(self.root))
        folders = {entry.name for entry in entries if entry.is_dir()}
        splits = folders & SPLIT_NAMES.keys()
        _, inner, _ = next(os.walk(self.root / "train"), ("", [], []))
        # A class may be called train: it holds no folders, or its siblings are classes.
        if not inner or "train" not in splits or (len(splits) == 1 and len(folders) > 1):
            return [("train", entries)]
        parts = []
        for entry in entries:
            if entry.name in splits:
                parts.append((SPLIT_NAMES[entry.name], list(self.visible(entry))))
            else:
                self.note(entry, "stray", "outside the train, val and test folders", "ignored")
        return parts

    def pictures(self, folder: Path) -> Iterator[Path]:
        """Yields the files of a class folder, however deep."""
        folders = [folder]
        while folders:
            for entry in self.visible(folders.pop()):
                if entry.is_dir():
                    folders.append(entry)
                elif is_text(entry.relative_to(folder)):
                    yield entry
                else:
                    self.note(entry, "bad-name", "the name is not valid UTF-8")

    def visible(self, folder: Path) -> Iterator[Path]:
        """Yields what a folder holds, without hidden things and links that lead elsewhere."""
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            self.note(folder, "unreadable", error.strerror or str(error))
            return
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _SYSTEM_FILES:
                self.note(entry, "hidden", "a hidden or system file", "ignored")
            elif entry.is_symlink() and not self._holds(entry):
                self.note(entry, "outside", "a link that leaves the folder")
            elif entry.is_symlink() and entry.is_dir():
                self.note(entry, "linked-folder", "a link to a folder is not followed")
            else:
                yield entry

    def _holds(self, link: Path) -> bool:
        return Path(os.path.realpath(link)).is_relative_to(self.root)


@dataclass(frozen=True, slots=True)
class _Verified:
    """What is known of a usable file."""

    sha256: str
    facts: pictures.Facts
    size: int
    mtime_ns: int


def _verify(path: Path, *, hashed: bool) -> _Verified | pictures.PictureError:
    try:
        # Before the file is read: if it is changed meanwhile, it will be read again.
        known = path.stat()
        content = pictures.read(path)
        facts = pictures.inspect(content, path.suffix, hashed=hashed)
    except pictures.PictureError as error:
        return error
    except OSError as error:
        return pictures.PictureError("unreadable", error.strerror or str(error))
    digest = hashlib.sha256(content).hexdigest()
    return _Verified(digest, facts, known.st_size, known.st_mtime_ns)
