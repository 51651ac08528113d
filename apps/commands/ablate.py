"""`cnnkit ablate`: which trick pays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated

import typer

from apps import arguments
from apps import console

if TYPE_CHECKING:
    from cnnkit.training.ablate import Row
    from cnnkit.training.significance import Difference


def ablate(
    data: arguments.Data = None,
    config: arguments.Config = None,
    model: arguments.Model = None,
    preset: arguments.Preset = None,
    sets: arguments.Sets = None,
    tricks: Annotated[
        str, typer.Option(help="Which, with commas between; all, if none are named.")
    ] = "",
    seeds: Annotated[int, typer.Option(help="How often each is trained.", min=2)] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results. [default: runs/NAME-ablate]")
    ] = None,
) -> None:
    """Trains with and without each trick, and tells what it changes and if that is chance.

    Results are kept as they come: the same command again goes on where it ended.
    """
    resolved = arguments.resolve(data, config, preset, sets, model__name=model)
    name = arguments.name_of(resolved.recipe.data.path)
    folder = out or Path("runs", f"{name}-ablate")
    printer = console.Printer(1)
    printer.stage(f"trying tricks on {resolved.recipe.data.path}")
    with console.hushed():
        from cnnkit.training.ablate import ablate

        chosen = [trick.strip() for trick in tricks.split(",") if trick.strip()]
        rows = ablate(resolved, folder, chosen, seeds=seeds, reporter=printer)
    metric = rows[0].metric if rows else "score"
    console.table(
        f"best {metric} over {seeds} seeds, against the recipe as it is",
        ["trick", "change", "difference", "95 % interval", "verdict", "time of an epoch"],
        [_cells(row) for row in sorted(rows, key=lambda row: -_gain(row))],
    )
    printer.done()


def _gain(row: Row) -> float:
    """Returns what the trick itself is worth."""
    return row.score.mean if row.change == "with" else -row.score.mean


def _cells(row: Row) -> list[object]:
    change = row.score
    verdict = ("better" if change.mean > 0 else "worse") if change.shown else "no difference shown"
    return [
        row.trick,
        row.change,
        f"{change.mean:+.4f}",
        _interval(change),
        verdict,
        f"{row.seconds.mean:+.0%}",
    ]


def _interval(change: Difference) -> str:
    return f"{change.low:+.4f} to {change.high:+.4f}"
