"""Decoded pictures on disk, for what does not fit into memory."""

import hashlib
import json
import math
import shutil
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL

import cnnkit
from cnnkit import files
from cnnkit.data.manifest import Item
from cnnkit.data.manifest import Manifest
from cnnkit.errors import CnnkitError


def name(
    manifest: Manifest, items: Sequence[Item], image_shape: tuple[int, int, int], resize: str
) -> str:
    """Returns a file name that tells what is in the file: contents, shape, rule, decoder."""
    content = [item.sha256 or item.id for item in items]
    decoder = [cnnkit.__version__, PIL.__version__]
    told = json.dumps([decoder, image_shape, resize, manifest.files, content])
    return f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.npy"


def mapped(
    path: Path, shape: tuple[int, int, int, int], pictures: Iterable[np.ndarray]
) -> np.ndarray:
    """Returns uint8 pixels as a read-only map of `path`, which is written if it is not there.

    Args:
        path: A `.npy` file. It is there as a whole or not at all.
        shape: `(n, height, width, channels)`.
        pictures: `n` of them, each `(height, width, channels)`; looked at only if needed.

    Raises:
        CnnkitError: If the file cannot be written, or the disk has no room for it.
    """
    found = _open(path, shape)
    if found is not None:
        return found
    # Written to the file, not to the map: a full disk is then an error, and not a crash.
    with files.replacing(path) as partial:
        _require_room(partial.parent, math.prod(shape))
        with partial.open("wb") as file:
            head = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, head)
            for pixels in pictures:
                file.write(pixels.tobytes())
    return np.load(path, mmap_mode="r")


def _open(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray | None:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there, or spoiled
        return None
    return found if found.shape == shape and found.dtype == np.uint8 else None


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise CnnkitError(
            "No room for the decoded pictures",
            where=folder,
            expected=f"{size / 1e9:.3f} GB",
            received=f"{free / 1e9:.3f} GB free",
            todo="free some space, name a larger disk in data.cache, or ask for a smaller "
            "data.image_size",
        )
