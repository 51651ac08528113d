"""`cnnkit check`: what is in the data, what is wrong with them, and how they are split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated

import typer

from apps import arguments
from apps import console
from cnnkit.errors import DataError
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    from cnnkit.data import Manifest

_SHOWN = 200


def check(
    data: Annotated[str, typer.Argument(help="Labelled pictures.", metavar="DATA")],
    split: Annotated[str, typer.Option(help="Fractions of train, val and test.")] = "0.7/0.15/0.15",
    seed: arguments.Seed = None,
    group_by: Annotated[
        str,
        typer.Option(
            help="Pictures of one group go to one split: a regular expression that finds the "
            "group's name in a path, or the word folder.",
            metavar="REGEX",
            show_default=False,
        ),
    ] = "",
    near_dups: Annotated[
        bool, typer.Option("--near-dups", help="Look for near copies, and keep them together.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Writes the manifest there.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 4 if anything is wrong.")
    ] = False,
) -> None:
    """Opens every picture, lists what is wrong, and splits the rest; changes nothing."""
    try:
        fractions = tuple(map(float, split.split("/")))
    except ValueError:
        raise UsageError("Wrong split", expected="such as 0.7/0.15/0.15", received=split) from None
    with console.hushed():  # TensorFlow reads TFRecord files
        import cnnkit.data

        manifest = cnnkit.data.check(
            data, split=fractions, seed=seed or 0, group_by=group_by, near_dups=near_dups
        )
    show(manifest)
    if out is not None:
        manifest.save(out)
        console.out.print(f"manifest: {out}", markup=False)
    bad = [problem for problem in manifest.problems if problem.action != "ignored"]
    if strict and bad:
        raise DataError(
            f"{len(bad)} problem{'s' * (len(bad) > 1)}, the first is",
            where=bad[0].path,
            received=bad[0].reason,
        )


def show(manifest: Manifest) -> None:
    """Prints the classes, the splits, the sizes and the problems."""
    counts = manifest.counts()
    console.table(
        manifest.summary(),
        ["class", *counts],
        [[name, *(c[name] for c in counts.values())] for name in manifest.classes],
    )
    found = manifest.statistics
    if found is not None:
        console.table(
            f"Sizes in pixels; {found.odd_aspect} of odd aspect, {found.groups} groups",
            ["", "smallest", "median", "largest"],
            [
                [name, spread.min, spread.median, spread.max]
                for name, spread in (
                    ("width", found.width),
                    ("height", found.height),
                    ("width / height", found.aspect),
                )
            ],
        )
    problems = manifest.problems
    if problems:
        more = len(problems) - _SHOWN
        console.table(
            f"Problems, of which {more} more are in the manifest (-o)" if more > 0 else "Problems",
            ["path", "what", "why", "action"],
            [[p.path, p.code, p.reason, p.action] for p in problems[:_SHOWN]],
        )
