"""`cnnkit explain`: which part of each picture the answer rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from typing import Any

import typer

from apps import arguments
from apps import console
from apps.commands.predict import expand
from cnnkit import files
from cnnkit import registry
from cnnkit.errors import DataError
from cnnkit.errors import UsageError

METHODS = ("gradcam", "gradcam++", "occlusion")
INDEX = "explain.json"


def explain(
    source: Annotated[
        Path, typer.Argument(help="A run folder, bundle or .keras file.", exists=True)
    ],
    pictures: Annotated[list[str], typer.Argument(help="Pictures, folders or patterns.")],
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}.")] = "gradcam",
    layer: Annotated[
        str, typer.Option(help="Whose maps are taken; auto takes the last ones.")
    ] = "auto",
    out: Annotated[Path, typer.Option(help="The folder of the heat maps.")] = Path("runs/explain"),
    overwrite: arguments.Overwrite = False,
) -> None:
    """Draws a heat map over each picture, for its likeliest class."""
    registry.known("method", method, METHODS)
    if method == "occlusion" and layer != "auto":
        raise UsageError("Occlusion looks at no layer", received=f"--layer {layer}")
    paths = expand(pictures)
    files.require_free(out, INDEX, overwrite=overwrite)
    with console.hushed():
        rows, bad = _drawn(source, paths, method, None if layer == "auto" else layer, out)
    for path, reason in bad.items():
        console.warn(f"{path}: {reason}")
    console.table(
        f"{method} of {source}",
        ["picture", "class", "probability", "heat map"],
        [[row["picture"], row["class"], row["probability"], row["heat map"]] for row in rows],
    )
    if bad:
        path, reason = next(iter(bad.items()))
        raise DataError(
            f"{len(bad)} of {len(paths)} pictures cannot be read", where=path, received=reason
        )


def _drawn(
    source: Path, paths: list[Path], method: str, layer: str | None, out: Path
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Returns what was drawn for the pictures that can be read, and why others cannot."""
    import numpy as np

    from cnnkit.analysis import drawing
    from cnnkit.analysis import heat_maps
    from cnnkit.data import PictureError
    from cnnkit.data import decode
    from export.runtime import predict_keras
    from export.subject import open_subject

    subject = open_subject(source)
    height, width, channels = subject.model.input_shape[1:]
    pixels, kept, bad = [], [], {}
    for path in paths:
        try:
            pixels.append(decode(path, (height, width), channels, subject.resize))
            kept.append(path)
        except PictureError as error:
            bad[str(path)] = error.reason
    if not pixels:
        return [], bad
    x = np.stack(pixels)
    probabilities = predict_keras(subject.model, x)
    answers = probabilities.argmax(1)
    if method == "occlusion":
        heat = heat_maps.occlusion(subject.model, x, answers)
    else:
        draw = heat_maps.grad_cam if method == "gradcam" else heat_maps.grad_cam_plus_plus
        heat = draw(subject.model, x, answers, layer)
    names = subject.labels or [f"class {k}" for k in range(probabilities.shape[1])]
    rows = []
    with files.replacing(out) as folder:
        folder.mkdir()
        for k, path in enumerate(kept):
            name = f"{k + 1:0{len(str(len(kept)))}d}-{path.stem}.png"
            drawing.overlay(x[k], heat[k]).save(folder / name)
            rows.append(
                {
                    "picture": str(path),
                    "class": names[answers[k]],
                    "probability": float(probabilities[k, answers[k]]),
                    "heat map": str(out / name),
                }
            )
        files.write_json(folder / INDEX, rows)
    return rows, bad
