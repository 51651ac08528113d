"""`cnnkit report`: the report and the model card of a run or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps import arguments
from apps import console
from cnnkit.errors import UsageError


def report(
    source: Annotated[
        Path,
        typer.Argument(
            help="A run folder or a bundle.", metavar="RUN|BUNDLE", exists=True, file_okay=False
        ),
    ],
    html: Annotated[
        Path | None, typer.Option(help="The report. [default, of a run: RUN/report.html]")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="The card. [default, of a run: RUN/MODEL_CARD.md]")
    ] = None,
    data: arguments.DataOption = None,
) -> None:
    """Writes report.html and MODEL_CARD.md anew: of a run in its folder, of a bundle elsewhere."""
    from export.bundle import Bundle

    sealed = (source / Bundle.MANIFEST).is_file()
    if html is None and card is None:
        if sealed:
            raise UsageError(
                "A bundle has its report and card already, and nothing in it may change",
                where=source,
                todo="name a place outside of it with --html or --card",
            )
        html, card = source / "report.html", source / "MODEL_CARD.md"
    for place in (html, card):
        if sealed and place is not None and place.resolve().is_relative_to(source.resolve()):
            raise UsageError(
                "This would change a bundle", where=place, expected=f"a place outside of {source}"
            )
    with console.hushed():
        from apps import report as reports
        from export.subject import open_subject

        subject = open_subject(source, data)
        manifest = Bundle.open(source).manifest if sealed else reports.of_run(subject)
        found = reports.facts(source, manifest, subject)
    if html is not None:
        console.out.print(f"report: {reports.write_page(html, found)}", markup=False)
    if card is not None:
        console.out.print(f"card: {reports.write_card(card, found)}", markup=False)
