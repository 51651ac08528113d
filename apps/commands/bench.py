"""`cnnkit bench --input DATA`: whether training waits for its pictures."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING
from typing import Annotated

import typer

from apps import arguments
from apps import console

if TYPE_CHECKING:
    from cnnkit.training.throughput import Throughput


def bench(
    data: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Labelled pictures, as for `train`: how fast they are read, decoded, augmented "
            "and learned from.",
            metavar="DATA",
        ),
    ] = None,
    config: arguments.Config = None,
    model: arguments.Model = None,
    preset: arguments.Preset = None,
    sets: arguments.Sets = None,
    repeat: Annotated[int, typer.Option(help="Batches that are measured.", min=2)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON.")] = False,
) -> None:
    """Measures each stage of the way from files to a step of training."""
    recipe = arguments.resolve(data, config, preset, sets, model__name=model).recipe
    printer = console.Printer(1)
    if not as_json:
        printer.stage(f"measuring {recipe.data.path}")
    with console.hushed():
        from cnnkit.training.throughput import measure

        found = measure(recipe, steps=repeat, reporter=None if as_json else printer)
    if as_json:
        told = {**asdict(found), "share": found.share, "input_bound": found.input_bound}
        typer.echo(json.dumps(told))
    else:
        show(found)


def show(found: Throughput) -> None:
    """Prints the stages, and whether pictures or the network are waited for."""
    height, width, channels = found.image_shape
    console.table(
        f"{found.model} on {height}x{width}x{channels}, {found.batch_size} pictures a batch",
        ["stage", "pictures/s", "ms a batch"],
        [[stage.name, f"{stage.pictures_per_s:.0f}", stage.ms] for stage in found.stages],
    )
    for stage in found.stages:
        if "decoding" in stage.name:
            seconds = found.training / stage.pictures_per_s
            console.out.print(
                f"Decoding {found.training} training pictures, once before the first epoch, takes "
                f"about {seconds:.1f} s."
            )
    console.out.print(
        f"The pipeline makes a batch in {found.pipeline.ms:.3g} ms while the network learns from "
        f"one in {found.step.ms:.3g} ms: it takes {found.share:.0%} of a step of "
        f"{found.whole.ms:.3g} ms, and is {'' if found.input_bound else 'not '}the bottleneck."
    )
