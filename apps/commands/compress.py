"""`cnnkit compress`: makes a trained model small."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated

import typer

from apps import arguments
from apps import console
from cnnkit import files
from cnnkit.errors import GateError
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from export.ledger import Row


def compress(
    source: Annotated[
        Path, typer.Argument(help="A run folder, bundle or .keras file.", exists=True)
    ],
    steps: arguments.Passes = None,
    data: arguments.DataOption = None,
    sets: arguments.Sets = None,
    out: Annotated[
        Path | None, typer.Option(help="The new run folder. [default: runs/NAME-small]")
    ] = None,
    overwrite: arguments.Overwrite = False,
) -> None:
    """Applies passes in the order given, fine-tunes after each, and leaves a run folder.

    Interrupted, the same command goes on after the last pass that was finished. If a target is
    out of reach, the run folder has the best that was found, and the exit code is 3.
    """
    from cnnkit.training import recipe
    from export import passes
    from export import targets

    parsed = [passes.parse(step) for step in steps or ()]
    if not parsed:
        raise UsageError(
            "No pass given",
            todo="add such as --pass prune-filters:ratio=0.3; see `cnnkit list passes`",
        )
    # Refuses a wrong key before the model is opened.
    targets.parse(recipe.resolve(sets=sets or ()).recipe.export.target)
    folder = arguments.run_folder(out, f"{arguments.name_of(str(source))}-small", overwrite)
    printer = console.Printer(2)
    with console.hushed():
        from export import fit
        from export.pipeline import compress as run_passes
        from export.pipeline import write_run
        from export.subject import open_subject

        printer.stage(f"opening {source}")
        subject = open_subject(source, data, sets=sets or ())
        for note in subject.notes:
            printer.note(note)
        if subject.dataset is None:
            printer.warn("no data: nothing is fine-tuned, and accuracy is not known; give --data")
        fit.require(subject.model, subject.recipe, printer)
        printer.stage("compressing")
        steps_done = folder.with_name(f".{folder.name}.steps")
        small = run_passes(subject, parsed, reporter=printer, checkpoint=steps_done)
        write_run(small, folder)
        files.remove(steps_done)
    show(small.ledger)
    console.out.print(f"run folder: {folder}", markup=False)
    printer.done()
    for result in small.results:
        if result.missed:
            raise GateError("A target was missed", received=result.missed, where=folder)


def show(rows: Sequence[Row]) -> None:
    """Prints the ledger."""
    console.table(
        "Ledger",
        [
            "step",
            "parameters",
            "non-zero",
            "MACs",
            "activations",
            "file",
            "zipped",
            "test accuracy",
        ],
        [
            [
                r.name,
                r.params,
                r.nonzeros,
                r.macs,
                console.kb(r.activation_bytes),
                console.kb(r.size_bytes),
                console.kb(r.zip_bytes),
                r.accuracy,
            ]
            for r in rows
        ],
    )
