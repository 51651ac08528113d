"""The arguments that several verbs share, and how they become a recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated

import typer

from cnnkit import files
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    from cnnkit.data import Manifest
    from cnnkit.training.recipe import Resolved
    from cnnkit.training.reporter import Reporter
    from export.runtime import Runnable

Data = Annotated[
    str | None,
    typer.Argument(
        help="A folder with one sub-folder per class, a .npz with x and y, a folder of MNIST IDX "
        "files, a pattern of TFRecord files in quotes, or the word digits.",
        metavar="DATA",
    ),
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="Labelled pictures, as for `train`.", metavar="DATA")
]
Config = Annotated[
    Path | None, typer.Option("-c", "--config", help="A recipe in TOML.", metavar="FILE")
]
Preset = Annotated[
    str | None, typer.Option("--preset", help="A ready recipe: see `cnnkit list presets`.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Changes one key of the recipe; repeatable.", metavar="KEY=VALUE"),
]
Model = Annotated[
    str | None,
    typer.Option(
        "-m", "--model", help="See `cnnkit list models`; or keras.applications.NAME, of Keras."
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of weights, order and augmentation.")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Tries all of it in two epochs of two batches, in folders of its own.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replaces what is there.")]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help="A format, see `cnnkit list formats`, or auto: the fastest that passes, of those that "
        "the target takes; repeatable.",
    ),
]
Calibration = Annotated[
    int | None, typer.Option("--calib", help="Number of calibration pictures.", min=1)
]
Tta = Annotated[int, typer.Option("--tta", help="Views of each picture that are averaged.", min=1)]
Flip = Annotated[
    bool | None,
    typer.Option(help="Whether mirror images are among the views. [default: not of grey pictures]"),
]
Passes = Annotated[
    list[str] | None,
    typer.Option(
        "--pass", help="A pass, see `cnnkit list passes`; repeatable, in order.", metavar="PASS"
    ),
]


def resolve(
    data: str | None,
    config: Path | None = None,
    preset: str | None = None,
    sets: list[str] | None = None,
    **flags: object,
) -> Resolved:
    """Returns the recipe that the arguments ask for, checked as far as names go.

    `flags` are dotted keys with `__` for the dot; None means not given.
    """
    from cnnkit.training import recipe
    from export import auto
    from export import passes
    from export import targets

    flags["data__path"] = data
    given = [  # JSON's strings, numbers, booleans and lists are TOML's
        f"{key.replace('__', '.')}={json.dumps(value, ensure_ascii=False)}"
        for key, value in flags.items()
        if value is not None
    ]
    resolved = recipe.resolve(config, preset=preset, sets=[*given, *(sets or [])])
    if not resolved.recipe.data.path:
        raise UsageError("No data given", todo="name them: `cnnkit VERB DATA`, or data.path in -c")
    for step in resolved.recipe.compress.passes:
        passes.parse(step)
    auto.named(resolved.recipe.export.formats)
    targets.parse(resolved.recipe.export.target)
    return resolved


def fitting(resolved: Resolved, printer: Reporter) -> Manifest:
    """Checks the data, and whether the network of the recipe fits its target, if it names one.

    Raises:
        DataError: If the data cannot be used.
        GateError: If the network cannot run there, see `export.fit.require`.
    """
    from cnnkit.training.train import check

    manifest = check(resolved.recipe, printer)
    if resolved.recipe.export.target == "none":
        return manifest
    from cnnkit import models
    from cnnkit.training.network import deployable
    from cnnkit.training.train import chosen
    from export import fit

    dataset, settled = chosen(manifest, resolved)
    recipe, (*_, channels) = settled.recipe, dataset.image_shape
    net = models.build(
        recipe.model.name, dataset.image_shape, len(dataset.classes), width=recipe.model.width
    )
    made = deployable(net, [127.5] * channels, [127.5] * channels)
    fit.require(made, recipe, printer, dataset.classes)
    return manifest


def run_folder(given: Path | None, name: str, overwrite: bool) -> Path:
    """Returns the run folder to write, after making sure that it is free."""
    path = given or Path("runs", name)
    files.require_free(path, "environment.json", overwrite=overwrite)
    return path


def bundle_folder(given: Path | None, name: str, overwrite: bool) -> Path:
    """Returns the bundle to write, after making sure that it is free."""
    path = given or Path("saved_models", name)
    files.require_free(path, "manifest.json", overwrite=overwrite)
    return path


def name_of(data: str, dry_run: bool = False) -> str:
    """Returns a short name for what is made from `data`, another one for what a dry run makes."""
    from export.subject import safe_name

    return safe_name(Path(data).resolve().stem) + ("-dry-run" if dry_run else "")


def seen(runnable: Runnable, tta: int, flip: bool | None) -> Runnable:
    """Returns `runnable`, with its answers averaged over the views that were asked for."""
    if tta == 1:
        return runnable
    from cnnkit.ensembles.views import flips_of
    from cnnkit.ensembles.views import seen_by
    from cnnkit.ensembles.views import views

    shape = runnable.input_shape
    chosen = views(tta, flips_of(shape[-1]) if flip is None else flip)
    return replace(runnable, predict=seen_by(runnable.predict, shape, chosen))
