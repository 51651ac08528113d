"""`cnnkit train`: from data to a run folder."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated

import typer

from apps import arguments
from apps import console
from apps.commands.export import refuse
from apps.commands.export import show as show_bundle
from apps.commands.export import write_bundle
from cnnkit.errors import CnnkitError

if TYPE_CHECKING:
    from cnnkit.training.train import Run
    from export.bundle import Bundle


def train(
    data: arguments.Data = None,
    config: arguments.Config = None,
    model: arguments.Model = None,
    preset: arguments.Preset = None,
    sets: arguments.Sets = None,
    seed: arguments.Seed = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same weights on every run; slower.")
    ] = False,
    mixed_precision: Annotated[
        str | None, typer.Option(help="auto, off, float16 or bfloat16.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="auto, one, mirrored or jax-mesh.")] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="Ends with the epoch in which it is over, such as 30m.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Weights to begin with: a file, a run folder, or imagenet.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder. [default: runs/NAME]")] = None,
    dry_run: arguments.DryRun = False,
    overwrite: arguments.Overwrite = False,
) -> None:
    """Trains a network and leaves a run folder."""
    resolved = arguments.resolve(
        data,
        config,
        preset,
        sets,
        model__name=model,
        train__seed=seed,
        train__deterministic=deterministic or None,
        device__mixed_precision=mixed_precision,
        device__strategy=strategy,
        guard__time_limit=time_limit,
        guard__dry_run=dry_run or None,
        model__pretrained=pretrained,
    )
    path, dry_run = resolved.recipe.data.path, resolved.recipe.guard.dry_run
    folder = arguments.run_folder(out, arguments.name_of(path, dry_run), overwrite)
    printer = console.Printer(2 if dry_run else 1)
    printer.stage(f"training on {path}")
    with console.hushed(), resumable(folder):
        import cnnkit
        from cnnkit.training.devices import chief

        untold = resolved.recipe.export.target == "none"
        source = path if untold else arguments.fitting(resolved, printer)
        run = cnnkit.train(source, resolved, folder, overwrite=overwrite, reporter=printer)
        if chief():
            show(run)
        bundle = exported(run, printer) if dry_run and chief() else None
    if bundle:
        show_bundle(bundle)
    printer.done()
    if bundle:
        refuse(bundle)


def exported(run: Run, printer: console.Printer) -> Bundle | None:
    """Returns a bundle in the run folder, with its report; only TensorFlow can write one."""
    import keras

    from export.subject import open_subject

    if keras.backend.backend() != "tensorflow":
        printer.warn(
            f"no export on {keras.backend.backend()}: try it with KERAS_BACKEND=tensorflow"
        )
        return None
    printer.stage("exporting, verifying and reporting")
    return write_bundle(open_subject(run.folder), None, run.folder / "bundle", printer)


@contextlib.contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Says how to go on if the user interrupts what is inside, or the disk is full."""
    try:
        yield
    except (KeyboardInterrupt, CnnkitError) as error:
        # Its subclasses are what would happen again.
        stopped = isinstance(error, KeyboardInterrupt) or type(error) is CnnkitError
        if stopped and (folder / "checkpoints/state.json").is_file():
            console.warn(f"go on with: cnnkit resume {shlex.quote(str(folder))}")
        raise


def show(run: Run) -> None:
    """Prints how good the trained model is on the test pictures."""
    from cnnkit.training.evaluate import evaluate
    from cnnkit.training.predict import predict_keras

    model = run.model()
    scores = evaluate(lambda x: predict_keras(model, x), run.dataset())
    console.table(
        f"{run.folder}: {model.count_params()} parameters"
        + (", a dry run" if run.recipe.guard.dry_run else ""),
        ["test accuracy", "95 % interval", "macro F1", "95 % interval", "majority class"],
        [
            [
                scores.accuracy,
                "{:.4f}-{:.4f}".format(*scores.interval),
                scores.macro_f1,
                "{:.4f}-{:.4f}".format(*scores.macro_f1_interval),
                scores.majority,
            ]
        ],
    )
