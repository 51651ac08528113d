"""Measures which copies of a picture the perceptual hash finds, and what else it takes for one.

    python -m benchmarks.near_copies PICTURES      # seconds; a folder of class folders

Every second picture is changed in one way at a time and compared with itself. Shares of copies are
those whose hashes differ in at most so many of 64 bits; different pictures are all pairs of files.
`cnnkit check --near-dups` takes `cnnkit.data.near.DISTANCE` bits. The rows go into
`benchmarks/near_copies.md`.
"""

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from PIL import ImageEnhance

from cnnkit import files
from cnnkit.data import check
from cnnkit.data import decode
from cnnkit.data import near
from cnnkit.data import pictures

TABLE = Path(__file__).with_suffix(".md")
BITS = (0, 2, 4, 6, 8, 10)


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _cropped(image: Image.Image, part: float) -> Image.Image:
    x, y = max(1, round(image.width * part)), max(1, round(image.height * part))
    return image.crop((x, y, image.width - x, image.height - y))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 90": lambda image: _jpeg(image, 90),
    "JPEG, quality 50": lambda image: _jpeg(image, 50),
    "half the size": lambda image: _scaled(image, 0.5),
    "1.5 times the size": lambda image: _scaled(image, 1.5),
    "0.85 of the brightness": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "0.8 of the contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "grey": lambda image: image.convert("L"),
    "2 % less at each side": lambda image: _cropped(image, 0.02),
    "5 % less at each side": lambda image: _cropped(image, 0.05),
}


def hashes(images: list[Image.Image]) -> np.ndarray:
    """Returns the hash of each picture as a number."""
    return np.array([int(near.perceptual_hash(image), 16) for image in images], np.uint64)


def text(folder: Path) -> str:
    """Returns the page."""
    manifest = check(folder)
    images = [
        pictures.of_pixels(decode(folder / item.id, (item.height, item.width), 3, "squash"))
        for item in manifest.items
    ]
    known = hashes(images)
    first, second = np.triu_indices(len(images), 1)
    different = np.bitwise_count(known[first] ^ known[second])
    lines = [
        f"# What near copies are\n\n{len(images)} pictures; made by `python -m "
        f"benchmarks.near_copies {folder.name}`, whose text says what the columns are. cnnkit "
        f"takes {near.DISTANCE} bits.",
        "",
        "| change | " + " | ".join(f"{bits} bits" for bits in BITS) + " |",
        "|---" * (1 + len(BITS)) + "|",
    ]
    for name, change in CHANGES.items():
        apart = np.bitwise_count(known[::2] ^ hashes([change(image) for image in images[::2]]))
        shares = " | ".join(f"{(apart <= bits).mean():.3f}" for bits in BITS)
        lines.append(f"| {name} | {shares} |")
    pairs = " | ".join(f"{(different <= bits).sum():,}" for bits in BITS)
    lines.append(f"| none: different pictures, of {len(different):,} pairs | {pairs} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measures the pictures of a folder and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="PICTURES")
    args = parser.parse_args(argv)
    files.write_text(TABLE, text(args.folder) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
