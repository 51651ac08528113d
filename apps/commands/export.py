"""`cnnkit export`: writes and verifies files for phones, servers and microcontrollers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any

import typer

from apps import arguments
from apps import console
from cnnkit.errors import GateError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence

    from export.bundle import Bundle
    from export.ledger import Row
    from export.subject import Subject


def export(
    source: Annotated[
        Path, typer.Argument(help="A run folder, bundle or .keras file.", exists=True)
    ],
    names: arguments.Formats = None,
    data: arguments.DataOption = None,
    target: Annotated[
        str | None, typer.Option(help="Where it is to run, see `cnnkit list targets`.")
    ] = None,
    calibration: arguments.Calibration = None,
    sets: arguments.Sets = None,
    out: Annotated[
        Path | None, typer.Option(help="The bundle. [default: saved_models/NAME]")
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(help="Sign the manifest with the key in this file.", metavar="KEYFILE"),
    ] = None,
    overwrite: arguments.Overwrite = False,
) -> None:
    """Writes a bundle: every format, run against the Keras model in its own runtime."""
    from cnnkit.training import recipe
    from export import auto
    from export import seal
    from export import targets

    key = None if sign is None else seal.read_key(sign)
    auto.named(names or ())
    given = [f"export.target={json.dumps(target)}"] if target else []
    given += [f"export.calibration={calibration}"] if calibration else []
    sets = [*given, *(sets or [])]
    # Refuses a wrong key before the model is opened.
    targets.parse(recipe.resolve(sets=sets).recipe.export.target)
    folder = arguments.bundle_folder(out, arguments.name_of(str(source)), overwrite)
    printer = console.Printer(2)
    with console.hushed():
        from export.subject import open_subject

        printer.stage(f"opening {source}")
        subject = open_subject(source, data, sets=sets)
        printer.stage("exporting and verifying")
        bundle = write_bundle(subject, names, folder, printer)
        if key is not None:
            seal.sign(bundle.folder, key)
    show(bundle)
    printer.done()
    refuse(bundle)


def write_bundle(
    subject: Subject,
    names: Sequence[str] | None,
    folder: Path,
    printer: console.Printer,
    rows: Sequence[Row] = (),
) -> Bundle:
    """Writes a bundle with its report; without data, formats that need calibration stay out."""
    from apps.report import write_report
    from export import auto
    from export import bundle
    from export import formats

    asked = names or subject.recipe.export.formats
    chosen = auto.named(asked) if asked else formats.select(formats.DEFAULT)
    for row in [] if asked else [row for row in chosen if row.missing()]:
        chosen.remove(row)
        printer.warn(f"no {row.name}: {row.missing()} is not installed")
    if subject.dataset is None and subject.ranges is None and not names:
        left_out = [row.name for row in chosen if row.needs_calibration]
        chosen = [row for row in chosen if not row.needs_calibration]
        printer.warn(f"no data to calibrate with: no {', '.join(left_out)}; give --data")
    for note in subject.notes:
        printer.note(note)

    def report(hidden: Path, manifest: dict[str, Any]) -> None:
        manifest["command"] = console.command()
        printer.step("writing report.html")
        write_report(hidden, manifest, subject)

    jobs = [row.name for row in chosen] + [name for name in asked if name == auto.NAME]
    return bundle.write(subject, jobs, out=folder, rows=rows, extra=report, reporter=printer)


def show(bundle: Bundle) -> None:
    """Prints one row for the Keras model and for each artifact."""
    model = bundle.manifest["ledger"][-1]
    rows = [
        [
            "keras",
            model["accuracy"],
            console.kb(model["size_bytes"]),
            console.kb(model["zip_bytes"]),
            model["macs"],
            None,
            None,
            "the reference",
        ]
    ]
    for row in bundle.manifest["verdicts"]:
        rows.append(
            [
                row["format"],
                row["accuracy"],
                console.kb(row["size_bytes"]),
                console.kb(row["zip_bytes"]),
                model["macs"],
                None if row["latency_ms"] is None else f"{row['latency_ms']:.3f} ms",
                None if row["agreement"] is None else f"{row['agreement']:.2%}",
                "ok" if row["ok"] else f"REFUSED: {row['reason']}",
            ]
        )
    console.table(
        f"{bundle.folder}, verified on {bundle.manifest['verified_on']}",
        [
            "model",
            "test accuracy",
            "size",
            "zipped",
            "MACs",
            "latency",
            "agrees with keras",
            "verdict",
        ],
        rows,
    )
    opinions({row["format"]: row["opinions"] for row in bundle.manifest["verdicts"]})


def opinions(told: Mapping[str, Sequence[str]]) -> None:
    """Prints what other runtimes gave, by format."""
    if rows := [[name, text] for name, texts in told.items() for text in texts]:
        console.table("Second opinions", ["artifact", "what"], rows)


def refuse(bundle: Bundle) -> None:
    """Raises if a format that was asked for is not in the bundle.

    Raises:
        GateError: If so.
    """
    if bundle.refused:
        name, reason = next(iter(bundle.refused.items()))
        raise GateError(
            f"{len(bundle.refused)} of {len(bundle.manifest['verdicts'])} formats are refused and "
            "not in the bundle; the first is",
            where=name,
            received=reason,
            todo=f"what passed is in {bundle.folder}",
        )
