"""Sources that are arrays: scikit-learn's digits, `.npz` files and MNIST's IDX files."""

import gzip
import hashlib
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.lib.npyio import NpzFile

from cnnkit import files
from cnnkit.data import near
from cnnkit.data import pictures
from cnnkit.data.manifest import Item
from cnnkit.data.manifest import Split
from cnnkit.data.manifest import printable
from cnnkit.errors import DataError

Parts: TypeAlias = Mapping[Split, tuple[np.ndarray, np.ndarray]]

_IDX_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx\d-ubyte(\.gz)?$")
_NPZ_LAYOUTS: tuple[dict[Split, str], ...] = ({"train": ""}, {"train": "_train", "test": "_test"})


@dataclass(frozen=True)
class Arrays:
    """An array source, read.

    Args:
        x: uint8 pixels, `(n, height, width, channels)`.
        y: int64 labels, `(n,)`, indices into `classes`.
        classes: Class names.
        splits: For each picture, the split that the source brings (train if none).
        files: SHA-256 of each file by name.
    """

    x: np.ndarray
    y: np.ndarray
    classes: list[str]
    splits: list[Split]
    files: dict[str, str]

    def items(self, *, hashed: bool = False) -> list[Item]:
        """Returns an item a picture, with the hash of its pixels, and its perceptual one."""
        return [
            Item(
                str(i),
                int(label),
                split,
                hashlib.sha256(pixels.tobytes()).hexdigest(),
                phash=near.perceptual_hash(pictures.of_pixels(pixels)) if hashed else "",
            )
            for i, (pixels, label, split) in enumerate(
                zip(self.x, self.y, self.splits, strict=True)
            )
        ]


def read_digits(_: str) -> Arrays:
    """Reads scikit-learn's 1,797 handwritten digits, 8 x 8, with 0-16 scaled to 0-255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    digest = hashlib.sha256(x.tobytes() + bunch.target.tobytes()).hexdigest()
    return _arrays("digits", {"train": (x, bunch.target)}, {"digits": digest})


def read_npz(path: str) -> Arrays:
    """Reads a `.npz` file with x and y, or with x_train, y_train, x_test and y_test.

    Raises:
        DataError: If it is damaged, holds Python objects, or has other arrays.
    """
    where = printable(path)
    try:
        with Path(path).open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            names = set(archive.files)
            layout = next(
                (
                    ends
                    for ends in _NPZ_LAYOUTS
                    if names.issuperset(axis + end for axis in "xy" for end in ends.values())
                ),
                {},
            )
            parts = {
                split: (np.asarray(archive[f"x{end}"]), np.asarray(archive[f"y{end}"]))
                for split, end in layout.items()
            }
        digest = files.sha256(Path(path))
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            "Cannot read the .npz file",
            where=where,
            received=printable(error),
            todo="save plain arrays with numpy.savez; Python objects are not read",
        ) from None
    if not parts:
        raise DataError(
            "Arrays are missing from",
            where=where,
            expected="x and y, or x_train, y_train, x_test and y_test",
            received=printable(", ".join(sorted(names)) or "none"),
        )
    return _arrays(where, parts, {Path(path).name: digest})


def idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    """Returns the MNIST files of a folder by (train or test, images or labels).

    Where both are there, the plain file comes before the .gz.
    """
    found = {}
    for path in sorted(folder.iterdir(), reverse=True):
        if match := _IDX_NAME.search(path.name):
            split = "train" if match[1] == "train" else "test"
            found[split, match[2]] = path
    return found


def read_idx(path: str) -> Arrays:
    """Reads a folder of MNIST's IDX files: train-* is train (and val), t10k-* is test.

    Raises:
        DataError: If one of a pair is missing, or a file is damaged.
    """
    found = idx_files(Path(path))
    parts: dict[Split, tuple[np.ndarray, np.ndarray]] = {}
    sides: tuple[Split, ...] = ("train", "test")
    for split in sides:
        names = [(split, "images"), (split, "labels")]
        there = [name for name in names if name in found]
        if len(there) == 2:
            parts[split] = (_idx(found[names[0]]), _idx(found[names[1]]))
        elif there or split == "train":
            missing = next(name for name in names if name not in found)
            raise DataError("MNIST file missing", where=printable(path), expected="-".join(missing))
    digests = {file.name: files.sha256(file) for file in sorted(found.values())}
    return _arrays(printable(path), parts, digests)


READERS = {"digits": read_digits, "npz": read_npz, "idx": read_idx}


def _idx(path: Path) -> np.ndarray:
    """Reads one IDX file: 0, 0, type (8 = uint8), rank, then 4 bytes for each axis, then data."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\0\0\x08" or head[3] not in (1, 3, 4):
                raise DataError(
                    "Not an IDX file of bytes",
                    where=printable(path),
                    expected="the bytes 0, 0, 8 and 1, 3 or 4",
                    received=list(head),
                )
            axes = file.read(4 * head[3])
            if len(axes) < 4 * head[3]:
                raise EOFError("the file ends in its head")
            shape = np.frombuffer(axes, ">u4").tolist()
            size = math.prod(shape)
            content = file.read(size + 1)
    except (OSError, EOFError, MemoryError, OverflowError, zlib.error) as error:
        raise DataError("Cannot read", where=printable(path), received=printable(error)) from None
    if len(content) != size:
        raise DataError(
            "IDX file is truncated or too long",
            where=printable(path),
            expected=f"{size:,} bytes of data for the shape {shape}",
            received=f"{len(content):,}" if len(content) <= size else "more",
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _arrays(where: str, parts: Parts, digests: dict[str, str]) -> Arrays:
    """Checks and joins the parts of a source."""
    pixels = [_pixels(where, x) for x, _ in parts.values()]
    labels = [_labels(where, y) for _, y in parts.values()]
    for x, y in zip(pixels, labels, strict=True):
        if len(x) != len(y) or not len(x):
            raise DataError(
                "Pictures and labels do not match in",
                where=where,
                expected="as many labels as pictures, and at least one",
                received=f"{len(x):,} pictures, {len(y):,} labels",
            )
    shapes = {x.shape[1:] for x in pixels}
    if len(shapes) > 1:
        raise DataError("Train and test differ in shape", where=where, received=sorted(shapes))
    names, y = np.unique(np.concatenate(labels), return_inverse=True)
    splits = [split for split, x in zip(parts, pixels, strict=True) for _ in range(len(x))]
    classes = [str(name) for name in names]
    return Arrays(np.concatenate(pixels), y.astype(np.int64), classes, splits, digests)


def _pixels(where: str, x: np.ndarray) -> np.ndarray:
    """Returns pictures as uint8, `(n, h, w, c)`; fractions in [0, 1] are scaled to 0-255."""
    if x.ndim == 3:
        x = x[..., np.newaxis]
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or 0 in x.shape[1:]:
        raise DataError(
            "Pictures have a wrong shape in",
            where=where,
            expected="(n, height, width), or (n, height, width, 1 or 3)",
            received=x.shape,
        )
    if x.dtype == np.uint8 or not x.size:
        return x.astype(np.uint8)
    low, high = (x.min(), x.max()) if x.dtype.kind in "buif" else (math.nan, math.nan)
    if not (low >= 0 and high <= 255):  # also if one is NaN
        raise DataError(
            "Pixels have a wrong type or range in",
            where=where,
            expected="uint8, or numbers in 0-1 (fractions) or 0-255",
            received=f"{x.dtype} from {low} to {high}",
        )
    fractions = x.dtype.kind in "bf" and high <= 1
    return np.rint(x * 255.0 if fractions else x).astype(np.uint8)


def _labels(where: str, y: np.ndarray) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "biuU":
        raise DataError(
            "Labels have a wrong shape or type in",
            where=where,
            expected="one integer or text for each picture: (n,)",
            received=f"{y.dtype} {y.shape}",
            todo="turn one-hot rows into integers with y.argmax(axis=1)",
        )
    return y
