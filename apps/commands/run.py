"""`cnnkit run`: from labelled pictures to verified files and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps import arguments
from apps import console
from apps.commands.export import refuse
from apps.commands.export import show
from apps.commands.export import write_bundle
from apps.commands.train import resumable


def run(
    data: arguments.Data = None,
    config: arguments.Config = None,
    model: arguments.Model = None,
    preset: arguments.Preset = None,
    sets: arguments.Sets = None,
    seed: arguments.Seed = None,
    out: Annotated[
        Path | None, typer.Option(help="The bundle. [default: saved_models/NAME]")
    ] = None,
    run_folder: Annotated[
        Path | None, typer.Option("--run", help="The run folder. [default: runs/NAME]")
    ] = None,
    dry_run: arguments.DryRun = False,
    overwrite: arguments.Overwrite = False,
) -> None:
    """Checks, trains, compresses, exports, verifies and reports."""
    resolved = arguments.resolve(
        data,
        config,
        preset,
        sets,
        model__name=model,
        train__seed=seed,
        guard__dry_run=dry_run or None,
    )
    recipe = resolved.recipe
    name = arguments.name_of(recipe.data.path, recipe.guard.dry_run)
    bundle_place = arguments.bundle_folder(out, name, overwrite)
    folder = arguments.run_folder(run_folder, name, overwrite)
    printer = console.Printer(4)
    with console.hushed():
        from cnnkit.training.train import train
        from export.pipeline import compress
        from export.subject import open_subject

        printer.stage("checking the data")
        manifest = arguments.fitting(resolved, printer)
        printer.stage("training")
        with resumable(folder):
            made = train(manifest, resolved, folder, overwrite=overwrite, reporter=printer)
        printer.stage("compressing")
        small = compress(open_subject(made.folder), recipe.compress.passes, reporter=printer)
        printer.stage("exporting, verifying and reporting")
        bundle = write_bundle(small.subject, None, bundle_place, printer, small.ledger)
    show(bundle)
    for name, what in (("report.html", "report"), ("MODEL_CARD.md", "card")):
        console.out.print(f"{what}: {bundle.folder / name}", markup=False)
    printer.done()
    refuse(bundle)
