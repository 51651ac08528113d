"""`cnnkit show model NAME`: what a network costs, before it is trained."""

from __future__ import annotations

from typing import Annotated

import typer

from apps import console
from cnnkit import registry
from cnnkit.errors import UsageError


def show(
    kind: Annotated[str, typer.Argument(help="The word model.")],
    name: Annotated[str, typer.Argument(help="A network: see `cnnkit list models`.")],
    size: Annotated[
        str, typer.Option("--input", help="Height x width x channels of the pictures.")
    ] = "28x28x1",
    classes: Annotated[int, typer.Option(help="Number of classes.", min=2)] = 10,
) -> None:
    """Prints parameters, MACs and activation memory of a network, layer by layer."""
    from cnnkit import models

    registry.known("thing to show", kind, ("model",))
    registry.known("model", name, models.NAMES)
    try:
        height, width, channels = map(int, size.lower().split("x"))
    except ValueError:
        raise UsageError("Wrong input size", expected="such as 96x96x3", received=size) from None
    with console.hushed():
        from cnnkit.analysis import macs

        model = models.build(name, (height, width, channels), classes)
        layers = macs.table(model)
        peak = macs.peak_activation_bytes(model, 1)
    console.table(
        f"{name} on {size}",
        ["layer", "kind", "output", "parameters", "MACs", "activations"],
        [
            [
                r.name,
                r.kind,
                "x".join(map(str, r.output_shape)),
                r.params,
                r.macs,
                console.kb(r.activation_bytes),
            ]
            for r in layers
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
                console.kb(peak),
            ]
        ],
    )
