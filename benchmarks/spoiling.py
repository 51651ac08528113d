"""A folder of scikit-learn's digits, and files in it that are bad in several ways."""

import io
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from cnnkit.data.arrays import read_digits

PICTURES = 30  # of each class
# What each fault of a file must be called, and whether the picture is used.
FAULTS = {
    "cut.jpg": ("truncated", "skipped"),
    "nothing.png": ("empty", "skipped"),
    "png.jpg": ("wrong-name", "kept"),
    "text.png": ("wrong-name", "skipped"),
    "vast.png": ("too-large", "skipped"),
}


def make(root: Path) -> list[bytes]:
    """Makes the folder of digits, and returns PNG files of some that are not in it."""
    digits, rest = read_digits(""), list[bytes]()
    number = Counter[int]()
    for pixels, label in zip(digits.x, digits.y, strict=True):
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0]).save(file, "PNG")
        number[int(label)] += 1
        if number[int(label)] > PICTURES:
            rest.append(file.getvalue())
        else:
            place = root / str(label) / f"{number[int(label)]:02d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.getvalue())
    return rest


def spoil(root: Path, rest: list[bytes]) -> dict[str, tuple[str, str]]:
    """Puts three files of each fault into a folder, and returns what must be said of them."""
    rng, wanted = np.random.default_rng(0), dict[str, tuple[str, str]]()
    for number in range(3):
        for name, verdict in FAULTS.items():
            place = root / str(rng.integers(10)) / f"{number} {name}"
            place.write_bytes(_bad(name, rest[len(wanted)], rng))
            wanted[place.relative_to(root).as_posix()] = verdict
    return wanted


def _bad(name: str, png: bytes, rng: np.random.Generator) -> bytes:
    if name == "nothing.png":
        return b""
    if name == "text.png":
        return b"Dear all, this is a letter and no picture. " * 20
    if name == "png.jpg":
        return png
    if name == "cut.jpg":
        file = io.BytesIO()
        noise = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(file, "JPEG")
        return file.getvalue()[: int(rng.uniform(0.4, 0.9) * file.tell())]
    size = struct.pack(">IIBBBBB", 60_000 + int(rng.integers(99)), 60_000, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(b"\0" * 999)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
