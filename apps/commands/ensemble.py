"""`cnnkit ensemble`: several runs as one model, or as the teacher of a small one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated

import typer

from apps import arguments
from apps import console
from apps.commands import compress
from cnnkit import files
from cnnkit import registry

if TYPE_CHECKING:
    from export.ensembling import Ensembled


def ensemble(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders or bundles of the same data and splits; one, for snapshot.",
            metavar="RUN...",
            exists=True,
        ),
    ],
    method: Annotated[
        str, typer.Option(help="auto, mean, weighted, vote, stack or snapshot.")
    ] = "auto",
    cycles: Annotated[
        int, typer.Option(help="Of snapshot: how often the rate falls to zero.", min=1)
    ] = 5,
    keep: Annotated[
        int, typer.Option(help="Of snapshot: how many of the last ones are members.", min=1)
    ] = 3,
    student: Annotated[
        str | None,
        typer.Option("--distill-to", help="Teaches a network too.", metavar="MODEL"),
    ] = None,
    sets: arguments.Sets = None,
    out: Annotated[
        Path | None, typer.Option(help="The new run folder. [default: runs/NAME-ensemble]")
    ] = None,
    overwrite: arguments.Overwrite = False,
) -> None:
    """Combines runs into one model, and leaves a run folder that all verbs take.

    What is chosen, weighted or fitted is so on the validation split; accuracies are of the test
    split. A student of --distill-to has a run folder of its own beside it.
    """
    from cnnkit import models
    from cnnkit.training import recipe
    from export.ensembling import METHODS

    registry.known("method", method, METHODS)
    recipe.resolve(sets=sets or ())  # refuses a wrong key before a model is opened
    name = f"{arguments.name_of(str(runs[0]))}-ensemble"
    folder = arguments.run_folder(out, name, overwrite)
    if student:
        registry.known("model", student, models.NAMES)
        taught = folder.with_name(f"{folder.name}-{student}")
        files.require_free(taught, "environment.json", overwrite=overwrite)
    printer = console.Printer(2 if student else 1)
    printer.stage(f"combining {', '.join(map(str, runs))}")
    with console.hushed():
        from export.ensembling import distilled
        from export.ensembling import ensemble as combine
        from export.pipeline import write_run

        made = combine(runs, method, cycles=cycles, keep=keep, sets=sets or (), reporter=printer)
        made.write(folder)
        show(made, folder)
        if student:
            printer.stage(f"teaching {student}")
            small = distilled(made, student, reporter=printer)
            write_run(small, taught)
            compress.show(small.ledger)
            console.out.print(f"run folder: {taught}", markup=False)
    printer.done()


def show(made: Ensembled, folder: Path) -> None:
    """Prints how good the members and the ensemble are."""
    console.table(
        f"{folder}: {made.rule} of {len(made.members)} members",
        ["model", "weight", "validation accuracy", "test accuracy", "95 % interval"],
        [
            [
                row.name,
                row.weight,
                row.val_accuracy,
                row.test_accuracy,
                row.interval and "{:.4f}-{:.4f}".format(*row.interval),
            ]
            for row in made.rows
        ],
    )
    if made.rejected is not None:
        console.table(
            "Majority",
            ["rejected test pictures", "accuracy on the others"],
            [[made.rejected, made.sure]],
        )
