"""`cnnkit lr-find`: the learning-rate range test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps import arguments
from apps import console
from cnnkit import files


def lr_find(
    data: arguments.Data = None,
    config: arguments.Config = None,
    model: arguments.Model = None,
    preset: arguments.Preset = None,
    sets: arguments.Sets = None,
    seed: arguments.Seed = None,
    steps: Annotated[int, typer.Option(help="Of the test.", min=20)] = 100,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the curve. [default: runs/NAME-lr-find]")
    ] = None,
    overwrite: arguments.Overwrite = False,
) -> None:
    """Raises the learning rate until the loss explodes, and suggests one."""
    resolved = arguments.resolve(data, config, preset, sets, model__name=model, train__seed=seed)
    recipe = resolved.recipe
    folder = out or Path("runs", f"{arguments.name_of(recipe.data.path)}-lr-find")
    files.require_free(folder, "lr-find.csv", overwrite=overwrite)
    printer = console.Printer(1)
    printer.stage("raising the rate")
    with console.hushed():
        from cnnkit.training.lr_find import lr_find

        sweep = lr_find(recipe, steps=steps, reporter=printer)
        with files.replacing(folder) as partial:
            partial.mkdir()
            sweep.save(partial)
    console.table(
        f"{recipe.train.optimizer} on {recipe.data.path}",
        ["suggested rate", "lowest loss at", "steps", "curve"],
        [[sweep.suggestion, sweep.highest, len(sweep.rates), str(folder / "lr-find.png")]],
    )
    console.out.print(f"train with --set train.lr={sweep.suggestion:.2g}", markup=False)
    printer.done()
