"""`cnnkit predict`: the classes of pictures, by any model or file."""

from __future__ import annotations

import csv
import glob
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any

import typer

from apps import arguments
from apps import console
from cnnkit import registry
from cnnkit.errors import DataError

if TYPE_CHECKING:
    from export.runtime import Runnable


def predict(
    source: Annotated[
        Path,
        typer.Argument(
            help="A run folder, bundle, .keras, .tflite, .onnx or SavedModel.", exists=True
        ),
    ],
    pictures: Annotated[list[str], typer.Argument(help="Pictures, folders or patterns.")],
    topk: Annotated[int, typer.Option(help="Number of classes to print.", min=1)] = 5,
    form: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
    tta: arguments.Tta = 1,
    flip: arguments.Flip = None,
) -> None:
    """Prints the likeliest classes of each picture."""
    registry.known("format", form, ("table", "json", "csv"))
    paths = expand(pictures)
    with console.hushed():
        from export.runtime import open_model

        runnable = arguments.seen(open_model(source), tta, flip)
        rows, bad = _run(runnable, paths, topk)
    for note in runnable.notes:
        console.warn(note)
    for path, reason in bad.items():
        console.warn(f"{path}: {reason}")
    if form == "json":
        typer.echo(json.dumps(rows, ensure_ascii=False))
    elif form == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(["picture", "rank", "class", "probability"])
        for row in rows:
            for rank, (name, p) in enumerate(row["classes"], 1):
                writer.writerow([row["picture"], rank, name, f"{p:.6f}"])
    elif rows:
        cells = [
            [row["picture"], *(f"{name} {p:.1%}" for name, p in row["classes"])] for row in rows
        ]
        ranks = [str(k) for k in range(1, len(cells[0]))]
        console.table(f"{source}", ["picture", *ranks], cells)
    if bad:
        path, reason = next(iter(bad.items()))
        raise DataError(
            f"{len(bad)} of {len(paths)} pictures cannot be read", where=path, received=reason
        )


def expand(patterns: list[str]) -> list[Path]:
    """Returns the files that pictures, folders and patterns stand for.

    Raises:
        DataError: If one stands for nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.is_file() and p.name[:1] != ".")
        elif path.exists():
            found.append(path)
        else:
            matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  # any pattern
            found += map(Path, matches)
            if not matches:
                raise DataError("No such picture", where=pattern)
    if not found:
        raise DataError("No picture in", where=", ".join(patterns))
    return found


def _run(
    runnable: Runnable, paths: list[Path], topk: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Returns the classes of the pictures that can be read, and why the others cannot."""
    import numpy as np

    from cnnkit.data import PictureError
    from cnnkit.data import decode

    height, width, channels = runnable.input_shape
    pixels, kept, bad = [], [], {}
    for path in paths:
        try:
            pixels.append(decode(path, (height, width), channels, runnable.resize))
            kept.append(str(path))
        except PictureError as error:
            bad[str(path)] = error.reason
    if not pixels:
        return [], bad
    probabilities = runnable.predict(np.stack(pixels))
    names = runnable.labels or [f"class {i}" for i in range(probabilities.shape[1])]
    return [
        {"picture": name, "classes": [(names[k], float(p[k])) for k in np.argsort(-p)[:topk]]}
        for name, p in zip(kept, probabilities, strict=True)
    ], bad
