"""`cnnkit list`: the names that other verbs take."""

from __future__ import annotations

import importlib
import json
from typing import Annotated

import typer

from apps import console
from cnnkit import registry

# Word of the command line -> package whose import registers the parts, and their registry kind.
PARTS = {
    "augments": ("cnnkit.augmentation", "augmentation"),
    "blocks": ("cnnkit.blocks", "block"),
    "constraints": ("cnnkit.constraints", "constraint"),
    "initializers": ("cnnkit.initializers", "initializer"),
    "layers": ("cnnkit.layers", "layer"),
    "losses": ("cnnkit.losses", "loss"),
    "regularizers": ("cnnkit.regularizers", "regularizer"),
}
SINGULAR = {"losses": "loss", "passes": "pass"}
# Of Keras; those that learn or draw are layers.
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "PReLU", "elu", "RReLU")


def list_names(
    kind: Annotated[
        str,
        typer.Argument(
            help=f"models, activations, {', '.join(PARTS)}, schedules, formats, targets, passes or "
            "presets."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON.")] = False,
) -> None:
    """Prints the models, parts of models, formats, targets, passes or presets that exist."""
    others = {
        "models": _models,
        "activations": _activations,
        "schedules": _schedules,
        "formats": _formats,
        "targets": _targets,
        "passes": _passes,
        "presets": _presets,
    }
    registry.known("kind of names", kind, [*others, *PARTS])
    found = others[kind]() if kind in others else _parts(*PARTS[kind])
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        console.table(kind, [SINGULAR.get(kind, kind[:-1]), "what it is"], found.items())


def _models() -> dict[str, str]:
    from cnnkit import models

    with console.hushed():
        for module in set(models.NAMES.values()):
            importlib.import_module(module)
    return {name: _first_line(registry.get("model", name)) for name in models.NAMES}


def _activations() -> dict[str, str]:
    with console.hushed():
        import keras

        import cnnkit.layers
    rooms = (keras.activations, keras.layers, cnnkit.layers)
    return {
        name: _first_line(next(getattr(room, name) for room in rooms if hasattr(room, name)))
        for name in ACTIVATIONS
    }


def _parts(package: str, kind: str) -> dict[str, str]:
    with console.hushed():
        importlib.import_module(package)
    return {name: _first_line(registry.get(kind, name)) for name in registry.names(kind)}


def _schedules() -> dict[str, str]:
    from cnnkit.training import schedules

    found = {}
    for name, (what, options) in schedules.SCHEDULES.items():
        texts = [f"{k}: {o.meaning}, default {o.default:g}" for k, o in options.items()]
        found[name] = "; ".join([f"The learning rate {what}", *texts])
    return found


def _formats() -> dict[str, str]:
    from export import formats

    return {row.name: row.description for row in formats.FORMATS.values()}


def _targets() -> dict[str, str]:
    from export import targets

    return {
        row.name: f"{row.description}. Takes {', '.join(row.formats)}; computes in "
        f"{', '.join(row.dtypes)}; {'known shapes only' if row.static else 'any batch size'}. "
        f"int8 gains {row.int8}; zeros: {row.zeros}; few values: {row.clusters}. {row.source}"
        for row in targets.TARGETS.values()
    }


def _passes() -> dict[str, str]:
    from export import passes

    found = {}
    for name, module in passes.PASSES.items():
        config = importlib.import_module(module).Config
        options = "; ".join(
            f"{key}: {field.description}, default {field.default}"
            for key, field in config.__pydantic_fields__.items()
        )
        found[name] = f"{_first_line(importlib.import_module(module))} {options}."
    return found


def _first_line(documented: object) -> str:
    return (documented.__doc__ or "").strip().splitlines()[0]


def _presets() -> dict[str, str]:
    from cnnkit.training import recipe

    return {
        name: ", ".join(f"{key}={value}" for key, value in recipe.flat(preset).items())
        for name, preset in recipe.PRESETS.items()
    }
