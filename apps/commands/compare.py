"""`cnnkit compare`: runs side by side."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated

import typer

from apps import console

if TYPE_CHECKING:
    from cnnkit.training.compare import Compared


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders; others are compared with the first.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON.")] = False,
) -> None:
    """Shows how runs differ: settings, size, accuracy, and whether that is more than chance."""
    with console.hushed():
        from cnnkit.training.compare import compare
        from cnnkit.training.train import Run

        found = compare([Run.open(run) for run in runs])
    if as_json:
        typer.echo(json.dumps(asdict(found), ensure_ascii=False))
        return
    console.table(
        f"{found.rows[0].scores.pictures} test pictures",
        ["run", "parameters", "MACs", "accuracy", "macro F1", "difference, 95 %", "McNemar's p"],
        [_cells(row) for row in found.rows],
    )
    console.table(
        "settings that differ",
        ["key", *(row.run for row in found.rows)],
        [[key, *map(str, values)] for key, values in found.settings.items()],
    )


def _cells(row: Compared) -> list[object]:
    change = row.difference
    told = change and f"{change.mean:+.4f} ({change.low:+.4f} to {change.high:+.4f})"
    scores = row.scores
    return [row.run, row.params, row.macs, scores.accuracy, scores.macro_f1, told, row.p]
