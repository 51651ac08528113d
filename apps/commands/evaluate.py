"""`cnnkit eval`: how good a model or a file is on labelled pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from apps import arguments
from apps import console
from cnnkit import registry


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            help="A run folder, bundle, .keras, .tflite, .onnx or SavedModel.", exists=True
        ),
    ],
    data: arguments.Data = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON.")] = False,
    tta: arguments.Tta = 1,
    flip: arguments.Flip = None,
) -> None:
    """Prints accuracy, macro F1 and one row for each class."""
    registry.known("split", split, ("train", "val", "test"))
    with console.hushed():
        from cnnkit.training.evaluate import evaluate as score
        from export.subject import open_judge

        runnable, dataset = open_judge(source, data)
        runnable = arguments.seen(runnable, tta, flip)
        scores = score(runnable.predict, dataset, split)
    if as_json:
        typer.echo(json.dumps(scores.to_dict(), ensure_ascii=False))
        return
    for note in runnable.notes:
        console.warn(note)
    console.table(
        f"{source} on {scores.pictures} {split} pictures",
        [
            *("accuracy", "95 % interval", "macro F1", "95 % interval"),
            *("majority class", "calibration error"),
        ],
        [
            [
                scores.accuracy,
                "{:.4f}-{:.4f}".format(*scores.interval),
                scores.macro_f1,
                "{:.4f}-{:.4f}".format(*scores.macro_f1_interval),
                scores.majority,
                scores.ece,
            ]
        ],
    )
    console.table(
        "Classes",
        ["class", "precision", "recall", "F1", "pictures"],
        [[r.name, r.precision, r.recall, r.f1, r.support] for r in scores.classes],
    )
