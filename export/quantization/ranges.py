"""The ranges of activations that quantization-aware training learned: names and two numbers each.

They lie beside `model.keras` as `ranges.json`, in a run folder and in a bundle, so that an export
to int8 uses them instead of calibrating. They belong to the model with which they were learned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from cnnkit import files
from cnnkit.errors import UsageError

# From the name of a grid, which is that of a layer, to the smallest and the largest value on it.
Ranges = Mapping[str, tuple[float, float]]
FILE = "ranges.json"


def save(ranges: Ranges, folder: Path) -> None:
    """Writes the ranges into a folder."""
    files.write_json(folder / FILE, {name: list(limits) for name, limits in ranges.items()})


def load(folder: Path) -> dict[str, tuple[float, float]] | None:
    """Returns the ranges that lie in a folder, or None if there are none.

    Raises:
        UsageError: If the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        ranges = {str(k): (float(low), float(high)) for k, (low, high) in found.items()}
        sound = all(
            math.isfinite(h - low) and low <= 0 <= h and low < h for low, h in ranges.values()
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError("The int8 ranges are damaged", where=path, received=error) from error
    if not sound:
        raise UsageError(
            "The int8 ranges are damaged",
            where=path,
            expected="two finite ends each, with zero between them",
        )
    return ranges
