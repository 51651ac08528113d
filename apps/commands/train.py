"""`cnnkit train`: from data to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated

import typer

from apps import arguments
from apps import console

if TYPE_CHECKING:
    from cnnkit.training.train import Run


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
    out: Annotated[Path | None, typer.Option(help="The run folder. [default: runs/NAME]")] = None,
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
    )
    path = resolved.recipe.data.path
    folder = arguments.run_folder(out, arguments.name_of(path), overwrite)
    printer = console.Printer(1)
    printer.stage(f"training on {path}")
    with console.hushed():
        import cnnkit

        run = cnnkit.train(path, resolved, folder, overwrite=overwrite, reporter=printer)
        show(run)
    printer.done()


def show(run: Run) -> None:
    """Prints how good the trained model is on the test pictures."""
    from cnnkit.training.evaluate import evaluate
    from export.runtime import predict_keras

    model = run.model()
    scores = evaluate(lambda x: predict_keras(model, x), run.dataset())
    console.table(
        f"{run.folder}: {model.count_params()} parameters",
        ["test accuracy", "95 % interval", "macro F1", "majority class"],
        [
            [
                scores.accuracy,
                "{:.4f}-{:.4f}".format(*scores.interval),
                scores.macro_f1,
                scores.majority,
            ]
        ],
    )
