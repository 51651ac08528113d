"""`cnnkit show model NAME...`: what a network costs and sees, before it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Annotated

import typer

from apps import console
from cnnkit import registry
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    import keras

    from export.targets import Target


def show(
    kind: Annotated[str, typer.Argument(help="The word model.")],
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="Networks, see `cnnkit list models`; several: side by side."
        ),
    ],
    size: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Height x width x channels of the pictures, such as 96x96x3.",
            show_default="the network's own",
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(help="Number of classes.", min=2, show_default="the network's own"),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Say whether it will fit there, see `cnnkit list targets`; with the room on the "
            "board, such as tflm:flash=256KB,ram=64KB.",
        ),
    ] = None,
    lint: Annotated[
        bool, typer.Option("--lint", help="Say which rules of design the network does not keep.")
    ] = False,
) -> None:
    """Prints parameters, MACs, activation memory and receptive field, layer by layer."""
    from cnnkit import models

    registry.known("thing to show", kind, ("model",))
    for name in names:
        registry.known("model", name, models.NAMES)
    shape = _shape(size)
    from export import targets

    place = targets.parse(target) if target else None
    with console.hushed():
        made = [_build(name, shape, classes) for name in names]
        if len(made) > 1:
            _side_by_side(made)
        else:
            _layers(*made)
        for model in made if lint else ():
            _lint(model)
        for model in made:
            if place is not None:
                _fit(model, place)


def _shape(size: str | None) -> tuple[int, int, int] | None:
    if size is None:
        return None
    try:
        height, width, channels = map(int, size.lower().split("x"))
    except ValueError:
        raise UsageError("Wrong input size", expected="such as 96x96x3", received=size) from None
    return height, width, channels


def _build(name: str, shape: tuple[int, int, int] | None, classes: int | None) -> keras.Model:
    import importlib
    import inspect

    from cnnkit import models

    importlib.import_module(models.NAMES[name])
    own = inspect.signature(registry.get("model", name)).parameters
    return models.build(
        name, shape or own["input_shape"].default, classes or own["classes"].default
    )


def _layers(model: keras.Model) -> None:
    from cnnkit.analysis import macs
    from cnnkit.analysis import receptive_field

    costs, fields = macs.table(model), receptive_field.table(model)
    console.table(
        f"{model.name} on {_sides(model.input_shape[1:])}",
        ["layer", "kind", "output", "field", "parameters", "MACs", "activations"],
        [
            [
                row.name,
                row.kind,
                _sides(row.output_shape),
                str(field) or None,
                row.params,
                row.macs,
                console.kb(row.activation_bytes),
            ]
            for row, field in zip(costs, fields, strict=True)
        ],
    )
    console.table(
        "Total",
        ["parameters", "MACs", "weights as float32", "weights as int8", "peak activations as int8"],
        [
            [
                macs.params(model),
                macs.total(model),
                console.kb(4 * macs.params(model)),
                console.kb(macs.params(model)),
                console.kb(macs.peak_activation_bytes(model, 1)),
            ]
        ],
    )


def _side_by_side(made: list[keras.Model]) -> None:
    from cnnkit.analysis import side_by_side

    console.table(
        "Side by side",
        ["model", "input", "depth", "parameters", "MACs", "FLOPs", "receptive field"],
        [
            [
                row.name,
                _sides(model.input_shape[1:]),
                row.depth,
                row.params,
                row.macs,
                row.flops,
                "x".join(f"{side:g}" for side in row.field) or None,
            ]
            for model, row in zip(made, side_by_side.table(made), strict=True)
        ],
    )


def _lint(model: keras.Model) -> None:
    from cnnkit.analysis import lint

    found = [[finding.rule, finding.text] for finding in lint.check(model)]
    console.table(f"{model.name} against the rules of design", ["rule", "found"], found)


def _fit(model: keras.Model, target: Target) -> None:
    from cnnkit.training.network import deployable
    from export import fit

    channels = model.input_shape[-1]
    found = fit.check(deployable(model, [127.5] * channels, [127.5] * channels), target)
    rows = [
        ["file", found.format, console.kb(found.size_bytes), console.kb(target.flash_bytes)],
        [found.memory, found.format, console.kb(found.ram_bytes), console.kb(target.ram_bytes)],
    ]
    console.table(
        f"{model.name} on {target.name}: " + ("fits" if found.ok else "does not fit"),
        ["what", "format", "needs, about", "there is"],
        rows,
    )
    told = [
        *(("problem", text) for text in found.problems),
        *(("would help", text) for text in found.remedies),
        *(("note", text) for text in found.notes),
        ("int8 gains", target.int8),
        ("zeros gain", target.zeros),
        ("few values gain", target.clusters),
    ]
    console.table(f"What {target.name} says", ["", "what"], told)


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
