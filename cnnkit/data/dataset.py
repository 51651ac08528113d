"""`load`: from a manifest to pixels."""

import hashlib
import math
import statistics
import tempfile
from collections.abc import Iterator
from collections.abc import Sequence
from itertools import chain
from itertools import zip_longest
from pathlib import Path

import numpy as np

from cnnkit import checks
from cnnkit import registry
from cnnkit.data import arrays
from cnnkit.data import cache as disk
from cnnkit.data import pictures
from cnnkit.data import tfrecord
from cnnkit.data.manifest import Item
from cnnkit.data.manifest import Manifest
from cnnkit.data.manifest import printable
from cnnkit.errors import DataError

IN_MEMORY = 2**30
_CHUNK = 1024


class Dataset:
    """The pictures of a manifest at one size, decoded when a split is first asked for.

    Args:
        manifest: What `check` found.
        image_shape: `(height, width, channels)` of every picture.
        resize: One of `RESIZE_RULES`.
        source: The arrays, where the source is arrays.
        cache: Folder for splits that do not lie in memory; None is one that goes with this object.
        in_memory: Bytes of pixels that a split in memory may have; None for any number.
    """

    def __init__(
        self,
        manifest: Manifest,
        image_shape: tuple[int, int, int],
        resize: str,
        source: arrays.Arrays | None,
        cache: Path | None = None,
        in_memory: int | None = IN_MEMORY,
    ) -> None:
        self.manifest = manifest
        self.classes = manifest.classes
        self.image_shape = image_shape
        self.resize = resize
        self._source = source
        self._cache = cache
        self._in_memory = math.inf if in_memory is None else in_memory
        self._pixels: dict[str, np.ndarray] = {}

    def ids(self, split: str) -> list[str]:
        """Returns the ids of a split, in the order of its arrays."""
        return [item.id for item in self.manifest.select(split)]

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split, int64 `(n,)`."""
        return np.array([item.label for item in self.manifest.select(split)], np.int64)

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns raw pixels, uint8 `(n, height, width, channels)`, and labels, int64 `(n,)`.

        Pixels that may not lie in memory are a read-only memory map of a file.

        Raises:
            DataError: If a picture has become unreadable.
            CnnkitError: If there is no room for that file.
        """
        if split not in self._pixels:
            self._pixels[split] = self._decoded(self.manifest.select(split))
        return self._pixels[split], self.labels(split)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Returns mean and standard deviation of each channel over the training split, of 0-255.

        A channel without any variation has the deviation 1, so that dividing by it is safe.
        """
        x, _ = self.arrays("train")
        values = np.arange(256.0)
        means, deviations = [], []
        for channel in range(x.shape[-1]):
            counts = np.zeros(256, np.int64)
            for start in range(0, len(x), _CHUNK):
                some = x[start : start + _CHUNK, ..., channel]
                counts += np.bincount(some.ravel(), minlength=256)
            mean = np.average(values, weights=counts)
            variance = np.average((values - mean) ** 2, weights=counts)
            means.append(float(mean))
            deviations.append(float(np.sqrt(variance)) or 1.0)
        return means, deviations

    def _decoded(self, items: list[Item]) -> np.ndarray:
        shape = (len(items), *self.image_shape)
        if math.prod(shape) > self._in_memory:
            if self._cache is None:
                self._temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
                self._cache = Path(self._temporary.name)
            path = self._cache / disk.name(self.manifest, items, self.image_shape, self.resize)
            return disk.mapped(path, shape, self._pictures(items))
        pixels = np.empty(shape, np.uint8)
        for k, picture in zip(range(len(items)), self._pictures(items), strict=True):
            pixels[k] = picture
        return pixels

    def _pictures(self, items: list[Item]) -> Iterator[np.ndarray]:
        """Yields the pixels of each item, few of which are in memory at a time."""
        height, width, channels = self.image_shape
        target = ((height, width), channels, self.resize)
        if self._source is None:
            return pictures.decode_all(contents(self.manifest, items), *target)
        stored = (self._source.x[int(item.id)] for item in items)
        if self._source.x.shape[1:] == self.image_shape:
            return stored
        return (pictures.fit(pictures.of_pixels(pixels), *target) for pixels in stored)


def contents(manifest: Manifest, items: Sequence[Item]) -> Iterator[Path | bytes]:
    """Yields the encoded picture of each item, or its path; not for arrays."""
    if manifest.kind == "tfrecord":
        return tfrecord.contents(manifest, items)
    return (Path(manifest.path, item.id) for item in items)


def load(
    manifest: Manifest,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str = "letterbox",
    cache: str | Path | None = None,
    in_memory: int | None = IN_MEMORY,
) -> Dataset:
    """Opens the pictures of a manifest, after making sure that they are still the same.

    A file with the size and time of its manifest is not read for that; others are hashed.

    Args:
        manifest: What `check` found.
        image_size: `(height, width)` in pixels. Defaults to an array's own size; for a folder
            to a square of the median of the longer sides, rounded to 16 (a small net halves
            four times), in [32, 64]: what a small net on a small machine can use.
        channels: 1 or 3. Defaults to 1 if every picture is grey, else 3.
        resize: One of `RESIZE_RULES`.
        cache: Folder for the decoded pictures of splits that do not lie in memory. They stay
            there, and are taken from there the next time. None is a temporary one.
        in_memory: Bytes of pixels that a split in memory may have; None for any number.

    Raises:
        DataError: If a file is gone or has changed since `check`.
        UsageError: If the resize rule is unknown.
        ValueError: If another argument is out of range.
    """
    registry.known("resize rule", resize, pictures.RESIZE_RULES)
    shape = image_shape(manifest, image_size, channels)
    reader = arrays.READERS.get(manifest.kind)
    source = reader(manifest.path) if reader else None
    _require_unchanged(manifest, source)
    folder = None if cache is None else Path(cache)
    return Dataset(manifest, shape, resize, source, folder, in_memory)


def image_shape(
    manifest: Manifest, image_size: Sequence[int] | None = None, channels: int | None = None
) -> tuple[int, int, int]:
    """Returns the shape that `load` would give every picture, without opening one."""
    natural = manifest.shape or _natural_shape(manifest)
    height, width = image_size or natural[:2]
    return (
        checks.integer("load", "image_size[0]", height, 1),
        checks.integer("load", "image_size[1]", width, 1),
        checks.one_of("load", "channels", natural[2] if channels is None else channels, (1, 3)),
    )


def sample(dataset: Dataset, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns up to `n` training pictures, always the same, in their order, and their labels."""
    x, y = dataset.arrays("train")
    chosen = np.sort(np.random.default_rng(0).permutation(len(x))[:n])
    return x[chosen], y[chosen]


def golden_pictures(dataset: Dataset, n: int = 12) -> list[tuple[str, np.ndarray, int]]:
    """Returns up to `n` test pictures as (id, uint8 pixels, label), one of each class first."""
    x, y = dataset.arrays("test")
    ids = dataset.ids("test")
    by_class = [np.flatnonzero(y == label).tolist() for label in range(len(dataset.classes))]
    rounds = chain.from_iterable(zip_longest(*by_class))
    chosen = [i for i in rounds if i is not None][:n]
    return [(ids[i], x[i], int(y[i])) for i in chosen]


def _natural_shape(manifest: Manifest) -> tuple[int, int, int]:
    median = statistics.median(max(item.width, item.height) for item in manifest.items)
    side = min(64, max(32, 16 * round(median / 16)))
    grey = all(pictures.is_grey(item.mode) for item in manifest.items)
    return side, side, 1 if grey else 3


def _require_unchanged(manifest: Manifest, source: arrays.Arrays | None) -> None:
    if source:
        found, expected = source.files, manifest.files
    elif manifest.kind == "tfrecord":
        found, expected = tfrecord.hashes(manifest), manifest.files
    else:
        expected = {item.id: item.sha256 for item in manifest.items}
        changed = [item for item in manifest.items if not _is_as_known(manifest.path, item)]
        hashes = pictures.in_parallel(_hash, [Path(manifest.path, item.id) for item in changed])
        found = expected | dict(zip([item.id for item in changed], hashes, strict=True))
    for name, digest in expected.items():
        now = found.get(name, "the file is gone")
        if now != digest:
            raise DataError(
                "The data has changed since its manifest was made",
                where=printable(name if manifest.stamps else Path(manifest.path, name)),
                received="other content" if len(now) == len(digest) else now,
                todo="put the file back, or run `cnnkit check` again",
            )


def _is_as_known(root: str, item: Item) -> bool:
    """Returns whether size and time of a file are those of the manifest: then so is its content."""
    try:
        found = Path(root, item.id).stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (item.size, item.mtime_ns)


def _hash(path: Path) -> str:
    """Returns the SHA-256 of a file, or why it cannot be read."""
    try:
        return hashlib.sha256(pictures.read(path)).hexdigest()
    except pictures.PictureError as error:
        return error.reason
