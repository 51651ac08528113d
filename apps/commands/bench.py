"""`cnnkit bench`: how fast files are, and whether training waits for its pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated

import pydantic
import typer

from apps import arguments
from apps import console
from cnnkit.errors import GateError
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    from cnnkit.training.throughput import Throughput
    from export.bench import Result


def bench(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN|BUNDLE|FILE]...", help="What is timed: all files of a bundle, a file."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Instead: labelled pictures, as for `train`: how fast they are read, decoded, "
            "augmented and learned from.",
            metavar="DATA",
        ),
    ] = None,
    config: arguments.Config = None,
    model: arguments.Model = None,
    preset: arguments.Preset = None,
    sets: arguments.Sets = None,
    repeat: Annotated[
        int, typer.Option(help="Pictures of each file, or batches, that are measured.", min=2)
    ] = 50,
    threads: Annotated[
        str, typer.Option(help="Numbers of threads of the runtimes, such as 1,4.")
    ] = "1",
    max_latency: Annotated[
        str | None, typer.Option(help="Exit code 3 if a median is above, such as 20ms.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Exit code 3 if a file is larger, such as 2MB.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Exit code 3 if a file loses more of the model's accuracy.", min=0),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="A picture of the times, .png or .svg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON.")] = False,
) -> None:
    """Times files side by side; with --input, the way from pictures to a step of training."""
    if sources and data:
        raise UsageError("Files or --input, not both", where="cnnkit bench")
    if sources:
        counts = _threads(threads)
        limits = {
            "max_latency": _milliseconds(max_latency),
            "max_size": _size(max_size),
            "max_drop": max_drop,
        }
        _files(sources, counts, repeat, limits, plot, as_json)
        return
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


def _files(
    sources: Sequence[Path],
    threads: Sequence[int],
    repeat: int,
    limits: dict[str, float | int | None],
    plot: Path | None,
    as_json: bool,
) -> None:
    from apps.report import charts
    from export import bench

    if plot:
        charts.require_picture(plot)
    printer = console.Printer(1)
    with console.hushed():
        taking_part = bench.entries(sources)
        told = (lambda _: None) if as_json else printer.step
        if not as_json:
            printer.stage(f"measuring {len(taking_part)} files")
        found, peaks = bench.measure(taking_part, threads=threads, turns=repeat, told=told)
    broken = {
        row.entry.name: reasons
        for row in found
        if (reasons := bench.breaches(row, **limits))  # type: ignore[arg-type]
    }
    if plot:
        charts.write_times(plot, found)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "rows": [row.to_dict() for row in found],
                    "peak_gops": peaks,
                    "breaches": broken,
                },
                ensure_ascii=False,
            )
        )
    else:
        _table(found, peaks)
    if broken:
        name, reasons = next(iter(broken.items()))
        raise GateError(
            f"{len(broken)} of {len(taking_part)} files do not keep the limits; the first is",
            where=name,
            received="; ".join(reasons),
        )


def _table(found: Sequence[Result], peaks: dict[int, dict[str, float]]) -> None:
    """Prints the times, and what the processor could do meanwhile."""
    rows = []
    for row in found:
        first = next(r for r in found if r.threads == row.threads)
        rows.append(
            [
                row.entry.name,
                row.threads,
                *(f"{ms:.3f}" for ms in (row.time.least, row.time.p10, row.time.p50, row.time.p95)),
                f"{row.time.least / first.time.least:.2f}",
                None if row.share is None else f"{row.share:.0%}",
                console.kb(row.size_bytes),
                console.kb(row.memory_bytes),
            ]
        )
    console.table(
        "One picture, in turns",
        [
            "file",
            "threads",
            "least ms",
            "p10",
            "p50",
            "p95",
            "of the first",
            "of the peak",
            "size",
            "memory",
        ],
        rows,
    )
    for threads, peak in peaks.items():
        reached = ", ".join(f"{kind} {gops:.1f}" for kind, gops in peak.items())
        console.out.print(
            f"Matrix products reached {reached} billion operations a second on {threads} "
            f"thread{'s' * (threads > 1)} in the same minute: these are the peaks."
        )


def _threads(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise UsageError("Wrong number of threads", where="--threads", expected="such as 1,4")
    return found


def _milliseconds(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s)", text.strip().lower())
    if not match:
        raise UsageError(
            "Wrong duration", where="--max-latency", expected="such as 20ms", received=text
        )
    return float(match[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match[2]]


def _size(text: str | None) -> int | None:
    from cnnkit.training.recipe import SizeBytes

    try:
        size: int | None = pydantic.TypeAdapter(SizeBytes).validate_python(text)
    except pydantic.ValidationError as error:
        raise UsageError(
            "Wrong size", where="--max-size", expected="such as 2MB", received=text
        ) from error
    return size


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
