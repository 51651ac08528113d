"""`cnnkit resume`: goes on with a training that was killed or interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps import console
from apps.commands.train import resumable
from apps.commands.train import show


def resume(folder: Annotated[Path, typer.Argument(help="The run folder.", metavar="RUN")]) -> None:
    """Goes on with a training from the end of its last epoch."""
    printer = console.Printer(1)
    printer.stage(f"resuming {folder}")
    with console.hushed(), resumable(folder):
        from cnnkit.training.devices import chief
        from cnnkit.training.train import resume

        run = resume(folder, printer)
        if chief():
            show(run)
    printer.done()
