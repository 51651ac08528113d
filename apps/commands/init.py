"""`cnnkit init`: a recipe to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps import arguments
from apps import console
from cnnkit import files
from cnnkit.errors import UsageError


def init(
    data: arguments.Data = None,
    preset: arguments.Preset = None,
    sets: arguments.Sets = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The file.")] = Path("cnnkit.toml"),
    overwrite: arguments.Overwrite = False,
) -> None:
    """Writes a recipe with every key, its value and what it means."""
    from cnnkit.training.recipe import commented

    resolved = arguments.resolve(data, None, preset, sets)
    if out.exists() and not overwrite:
        raise UsageError(
            "There is something already", where=out, todo="choose another -o, or add --overwrite"
        )
    files.write_text(out, commented(resolved.recipe))
    console.out.print(f"wrote {out}: change it, then `cnnkit run -c {out}`", markup=False)
