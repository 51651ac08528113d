"""`cnnkit verify`: runs every artifact of a bundle against its model again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps import arguments
from apps import console
from apps.commands.export import opinions
from cnnkit.errors import GateError


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle.", metavar="BUNDLE", exists=True)],
    data: arguments.DataOption = None,
    key: Annotated[
        Path | None,
        typer.Option(help="The key that it must be signed with.", metavar="KEYFILE"),
    ] = None,
) -> None:
    """Checks the hash of every file and runs every artifact; exit code 3 on a breach."""
    from export import seal
    from export.bundle import Bundle

    secret = None if key is None else seal.read_key(key)
    opened = Bundle.open(bundle)
    printer = console.Printer(1)
    printer.stage(f"verifying {bundle}")
    with console.hushed():
        from export.verification import verify as run_all

        verdict = run_all(opened, data, printer, secret)
    rows = [
        [r.format, r.accuracy, r.model_accuracy, r.agreement, r.max_abs, "ok" if r.ok else r.reason]
        for r in verdict.rows
    ]
    console.table(
        f"{bundle}, run on {verdict.source}",
        ["artifact", "accuracy", "of the model", "agreement", "largest difference", "verdict"],
        rows,
    )
    limits = [[row.format, *row.limit.split(": ", 1)] for row in verdict.rows if row.limit]
    if limits:
        console.table("Limits", ["artifact", "may differ", "why"], limits)
    opinions({row.format: row.opinions for row in verdict.rows})
    for note in verdict.notes:
        printer.note(note)
    for row in verdict.rows:
        for note in row.notes:
            printer.note(f"{row.format}: {note}")
    if verdict.broken:
        console.table("Not as exported", ["file", "what"], verdict.broken.items())
    if not verdict.ok:
        bad = [f"{row.format}: {row.reason}" for row in verdict.rows if not row.ok]
        bad += [f"{name}: {reason}" for name, reason in verdict.broken.items()]
        raise GateError("The bundle does not hold", where=bundle, received=bad[0])
