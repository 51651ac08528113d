"""TFRecord files of `tf.train.Example`, with the features that TensorFlow's own examples have.

`image/encoded` (the picture's file), `image/class/label`, and where they are there
`image/class/text` (the class name) and `image/filename`. TensorFlow is imported inside.
"""

import glob
import gzip
import hashlib
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from typing import NamedTuple

from cnnkit import files
from cnnkit.data import pictures
from cnnkit.data.manifest import SPLIT_NAMES
from cnnkit.data.manifest import Item
from cnnkit.data.manifest import Manifest
from cnnkit.data.manifest import Problem
from cnnkit.data.manifest import Split
from cnnkit.data.manifest import is_text
from cnnkit.data.manifest import printable
from cnnkit.errors import DataError

ENCODED, LABEL = "image/encoded", "image/class/label"
TEXT, FILENAME = "image/class/text", "image/filename"
_FRAME = 16  # bytes of length and checksums around each record
_SPLIT = re.compile(rf"(?:^|[-_.])({'|'.join(SPLIT_NAMES)})(?=[-_.]|$)")


def is_pattern(data: str) -> bool:
    """Returns whether `data` names TFRecord files: by a pattern, or `.tfrecord` in its name."""
    return not Path(data).is_dir() and (
        ".tfrecord" in Path(data).name or (glob.has_magic(data) and not Path(data).exists())
    )


@dataclass(frozen=True)
class Records:
    """TFRecord files, read.

    Args:
        classes: Their names, in the order of the labels in the files.
        items: The usable pictures, in the order of the files.
        problems: The others, and what was converted.
        files: SHA-256 of each file by its name.
        stamps: Size in bytes and time of the last change of each.
    """

    classes: list[str]
    items: list[Item]
    problems: list[Problem]
    files: dict[str, str]
    stamps: dict[str, tuple[int, int]]


def read(pattern: str, *, hashed: bool = False) -> Records:
    """Verifies the pictures of all files that match a pattern; few are in memory at a time.

    Files that have `train`, `val` (or `valid`, `validation`) or `test` as a word in their names
    bring their splits, unless nothing is left to train on.

    Args:
        pattern: An absolute path with `*`, `?` or `[…]`, or that of one file.
        hashed: Whether perceptual hashes are wanted.

    Raises:
        DataError: If no file matches, a file is damaged or truncated, or a record lacks features.
    """
    paths = _matches(pattern)
    splits = _splits(paths)
    stamps = {name: _stamp(path) for name, path in paths.items()}
    items, problems = [], []
    texts: dict[int, set[str]] = defaultdict(set)
    records = (record for name, path in paths.items() for record in _records(name, path))
    for found in pictures.in_parallel(partial(_verify, hashed=hashed), records):
        texts[found.label].update([found.text] if found.text else [])
        if isinstance(found.result, pictures.PictureError):
            error = found.result
            problems.append(Problem(printable(found.id), error.code, error.reason, "skipped"))
            continue
        digest, facts = found.result
        problems += [
            Problem(printable(found.id), code, reason, "kept")
            for code, reason in facts.remarks.items()
        ]
        items.append(
            Item(
                found.id,
                found.label,
                splits[found.file],
                digest,
                facts.width,
                facts.height,
                facts.mode,
                (*facts.flags, *facts.remarks),
                phash=facts.phash,
            )
        )
    labels, classes = _classes(pattern, texts)
    items = [replace(item, label=labels[item.label]) for item in items]
    digests = {name: files.sha256(path) for name, path in paths.items()}
    return Records(classes, items, problems, digests, stamps)


def contents(manifest: Manifest, items: Sequence[Item]) -> Iterator[bytes]:
    """Yields the encoded picture of each item, in the order of the manifest."""
    wanted = iter(item.id for item in items)
    want = next(wanted, None)
    paths = _matches(manifest.path)
    for name in manifest.files:
        for record in _records(name, paths[name]):
            if want is None:
                return
            if want == record.place or want.startswith(f"{record.place}/"):
                yield record.blob(ENCODED)
                want = next(wanted, None)


def hashes(manifest: Manifest) -> dict[str, str]:
    """Returns the SHA-256 of each file that is there; that of the manifest if it is as it was."""
    found = {}
    for name, path in _matches(manifest.path).items():
        known = manifest.stamps.get(name) == _stamp(path)
        found[name] = manifest.files[name] if known else files.sha256(path)
    return found


class _Record(NamedTuple):
    """An example, and where it is."""

    file: str
    place: str
    features: Any

    def blob(self, name: str, default: bytes | None = None) -> bytes:
        return self._one(name, "bytes_list", "one text or one picture", default)

    def integer(self, name: str) -> int:
        return int(self._one(name, "int64_list", "one integer", None))

    def _one(self, name: str, kind: str, what: str, default: Any) -> Any:
        there = name in self.features
        values = getattr(self.features[name], kind).value if there else []
        if len(values) == 1:
            return values[0]
        if not there and default is not None:
            return default
        raise DataError(
            f"A record has no proper {name}",
            where=printable(self.place),
            expected=f"{what} in {name}; needed are {ENCODED} and {LABEL}",
            received=printable(", ".join(sorted(self.features)) or "no features at all"),
        )


class _Found(NamedTuple):
    """What is known of one record."""

    id: str
    file: str
    label: int
    text: str
    result: tuple[str, pictures.Facts] | pictures.PictureError


def _verify(record: _Record, *, hashed: bool) -> _Found:
    content, label = record.blob(ENCODED), record.integer(LABEL)
    filename = record.blob(FILENAME, b"").decode(errors="replace")
    text = record.blob(TEXT, b"").decode(errors="replace")
    result: tuple[str, pictures.Facts] | pictures.PictureError
    try:
        facts = pictures.inspect(content, Path(filename).suffix, hashed=hashed)
        result = hashlib.sha256(content).hexdigest(), facts
    except pictures.PictureError as error:
        result = error
    id = f"{record.place}/{filename}" if filename else record.place
    return _Found(id, record.file, label, text, result)


def _matches(pattern: str) -> dict[str, Path]:
    """Returns the files that match, by their names below the folder that the pattern starts in."""
    base = Path(pattern).parent
    while glob.has_magic(str(base)):
        base = base.parent
    found = base.glob(Path(pattern).relative_to(base).as_posix())
    paths = {
        path.relative_to(base).as_posix(): path
        for path in ([Path(pattern)] if Path(pattern).exists() else sorted(found))
        if is_text(path) and path.is_file()
    }
    if paths:
        return paths
    raise DataError(
        "No TFRecord file matches",
        where=printable(pattern),
        expected="a path or a pattern such as 'photos-*.tfrecord', in quotes",
    )


def _splits(paths: Iterable[str]) -> dict[str, Split]:
    found: dict[str, Split] = {}
    for name in paths:
        word = _SPLIT.search(Path(name).name)
        found[name] = SPLIT_NAMES[word[1]] if word else "train"
    return found if "train" in found.values() else dict.fromkeys(found, "train")


def _stamp(path: Path) -> tuple[int, int]:
    known = path.stat()
    return known.st_size, known.st_mtime_ns


def _records(name: str, path: Path) -> Iterator[_Record]:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    packed = "GZIP" if path.suffix == ".gz" else ""
    stream = tf.data.TFRecordDataset([str(path)], packed).as_numpy_iterator()
    number = size = 0
    while True:
        place = f"{name}#{number}"
        try:
            content = next(stream, None)
            if content is None:
                _require_end(path, size)
                return
            features = tf.train.Example.FromString(content).features.feature
        except (tf.errors.OpError, DecodeError, OSError, EOFError, zlib.error) as error:
            strange = isinstance(error, DecodeError)
            raise DataError(
                "No tf.train.Example" if strange else "The TFRecord file is damaged or truncated",
                where=printable(place),
                expected=f"a whole record {number} in {printable(path)}",
                received=printable(str(getattr(error, "message", error)).split(" [")[0]),
                todo="write the file again",
            ) from None
        yield _Record(name, place, features)
        number, size = number + 1, size + _FRAME + len(content)


def _require_end(path: Path, size: int) -> None:
    """Raises EOFError if bytes follow the last record, which TensorFlow takes for its end."""
    found = path.stat().st_size
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            found = sum(map(len, iter(partial(file.read, 2**20), b"")))
    if found != size:
        raise EOFError(f"{found - size} bytes that are no record")


def _classes(pattern: str, texts: dict[int, set[str]]) -> tuple[dict[int, int], list[str]]:
    """Returns the index of each label, and the class names."""
    order = sorted(texts)
    for label in order:
        if len(texts[label]) > 1:
            raise DataError(
                f"Label {label} has several names",
                where=printable(pattern),
                expected=f"one {TEXT} for each {LABEL}",
                received=printable(", ".join(sorted(texts[label]))),
            )
    classes = [next(iter(texts[label]), str(label)) for label in order]
    if len(set(classes)) < len(classes):
        raise DataError(
            "Several labels have one name",
            where=printable(pattern),
            expected=f"one {LABEL} for each {TEXT}",
            received=printable(", ".join(name for name in classes if classes.count(name) > 1)),
        )
    return {label: k for k, label in enumerate(order)}, classes
