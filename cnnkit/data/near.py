"""Near copies: pictures that a perceptual hash cannot tell apart."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from cnnkit.errors import UsageError

BITS = 64
# Of copies of 366 drawings, compressed, halved, enlarged, or changed in brightness or contrast,
# 94 % or more differ in at most so many bits; of pairs of 731 different ones, 16 of 266,815
# (benchmarks/near_copies.md).
DISTANCE = 6
_BLOCK = 2**20  # comparisons at once: 8 MiB


def require() -> None:
    """Raises UsageError unless imagehash is installed."""
    try:
        import imagehash  # noqa: F401
    except ImportError:
        raise UsageError(
            "Near copies need the package imagehash", todo="`pip install 'cnnkit[hash]'`"
        ) from None


def perceptual_hash(image: Image.Image) -> str:
    """Returns the 64-bit pHash of an upright picture, in hexadecimal.

    Reference:
        Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions",
        section 3.2.1, http://phash.org/docs/pubs/thesis_zauner.pdf. Differs: as imagehash has it,
        the median is of all 64 coefficients, the first one too.
    """
    import imagehash

    return str(imagehash.phash(image))


def pairs(hashes: list[str], distance: int = DISTANCE) -> Iterator[tuple[int, int, int]]:
    """Yields `(i, j, bits)` for all `i < j` whose hashes differ in at most `distance` bits.

    Of equal hashes, only the first is compared with others: the rest are paired with it.
    Numbers that differ in at most `distance` bits agree in one of `distance + 1` bands of bits,
    so only those are compared; pairs that agree in several bands come several times.
    """
    values, first, place = np.unique(
        np.array([int(each, 16) for each in hashes], np.uint64),
        return_index=True,
        return_inverse=True,
    )
    for j, i in enumerate(first[place].tolist()):
        if i != j:
            yield i, j, 0
    edges = np.linspace(0, BITS, distance + 2).astype(int)
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        band = (values >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.argsort(band, kind="stable")
        cuts = np.flatnonzero(np.diff(band[order])) + 1
        for bucket in np.split(order, cuts):
            yield from _close(values, first, bucket, distance)


def _close(
    values: np.ndarray, first: np.ndarray, bucket: np.ndarray, distance: int
) -> Iterator[tuple[int, int, int]]:
    """Yields the close pairs of one bucket, of which each pair comes once."""
    rows = max(1, _BLOCK // len(bucket))
    for start in range(0, len(bucket) - 1, rows):
        here, rest = bucket[start : start + rows], bucket[start:]
        bits = np.bitwise_count(values[here, None] ^ values[None, rest])
        later = np.arange(len(rest)) > np.arange(len(here))[:, None]
        for a, b in zip(*np.nonzero((bits <= distance) & later), strict=True):
            i, j = sorted((int(first[here[a]]), int(first[rest[b]])))
            yield i, j, int(bits[a, b])
