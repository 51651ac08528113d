"""`cnnkit tune`: searches recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps import arguments
from apps import console
from cnnkit.errors import UsageError


def tune(
    data: arguments.Data = None,
    config: arguments.Config = None,
    model: arguments.Model = None,
    preset: arguments.Preset = None,
    sets: arguments.Sets = None,
    trials: Annotated[int, typer.Option(help="In all, with those of before.", min=1)] = 40,
    objective: Annotated[
        str,
        typer.Option(
            help="score, val_accuracy, size, macs or seconds, with commas between; score is what "
            "training judges its epochs by."
        ),
    ] = "score",
    search: Annotated[
        list[str] | None,
        typer.Option(
            help="What is searched: train.lr=1e-4..1e-2, or model.width=0.25,0.5,1; repeatable.",
            metavar="KEY=RANGE",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study. [default: runs/NAME-tune]")
    ] = None,
) -> None:
    """Trains many recipes, each chosen by what the ones before came to, and keeps the best.

    The study is kept as it grows: the same command again goes on where it ended.
    """
    resolved = arguments.resolve(data, config, preset, sets, model__name=model)
    name = arguments.name_of(resolved.recipe.data.path)
    folder = out or Path("runs", f"{name}-tune")
    printer = console.Printer(1)
    printer.stage(f"tuning on {resolved.recipe.data.path}")
    with console.hushed():
        from cnnkit.training.tune import BEST
        from cnnkit.training.tune import tune

        wanted = [part.strip() for part in objective.split(",") if part.strip()]
        found = tune(
            resolved,
            folder,
            trials=trials,
            objectives=wanted,
            space=dict(map(_assignment, search)) if search else None,
            reporter=printer,
        )
    console.table(
        f"the best of {trials} trials",
        ["trial", *found[0].values, *found[0].settings],
        [[trial.number + 1, *trial.values.values(), *trial.settings.values()] for trial in found],
    )
    console.out.print(f"train with -c {folder / BEST}", markup=False)
    printer.done()


def _assignment(text: str) -> tuple[str, str]:
    key, equals, values = text.partition("=")
    if not equals:
        raise UsageError("Not a range to search", received=text, expected="KEY=RANGE")
    return key.strip(), values
