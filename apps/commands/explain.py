"""`cnnkit explain`: what a network sees in pictures, and which part of them its answer rests on."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any
from typing import TypeAlias

import typer

from apps import arguments
from apps import console
from apps.commands.predict import expand
from cnnkit import files
from cnnkit import registry
from cnnkit.errors import DataError
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    import keras
    import numpy as np
    from PIL import Image

    # An image, how its file ends, and what is told of it.
    Drawing: TypeAlias = tuple[Image.Image, str, dict[str, Any]]

HEAT = ("gradcam", "gradcam++", "occlusion")
MAPS = ("activations", "deconvnet", "top")
METHODS = (*HEAT, *MAPS, "filters", "edges")
INDEX = "explain.json"
# Channels of a picture, or pictures of a channel: a square of three.
_SHOWN = 9


def explain(
    source: Annotated[
        Path,
        typer.Argument(
            help="A run folder, bundle or .keras file; for edges, the first picture.", exists=True
        ),
    ],
    pictures: Annotated[
        list[str] | None, typer.Argument(help="Pictures, folders or patterns.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="Heat maps of the likeliest class: gradcam, gradcam++, occlusion. What channels "
            "answer to: activations over each picture, deconvnet projections, the top pictures of "
            "each channel. The first filters; edge filters, without a model."
        ),
    ] = "gradcam",
    layer: Annotated[
        str, typer.Option(help="Whose maps are taken; auto takes the last ones.")
    ] = "auto",
    channel: Annotated[
        int | None,
        typer.Option(
            help=f"Of {', '.join(MAPS)}, counted from 0.",
            min=0,
            show_default="the strongest, or all",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of the drawings.")] = Path("runs/explain"),
    overwrite: arguments.Overwrite = False,
) -> None:
    """Draws what a network sees in pictures, and where its answers come from."""
    registry.known("method", method, METHODS)
    given = [str(source)] if method == "edges" else []
    given += pictures or []
    _refuse_useless(method, layer, channel, given)
    paths = expand(given) if given else []
    files.require_free(out, INDEX, overwrite=overwrite)
    bad: dict[str, str] = {}
    with console.hushed():
        if method == "edges":
            drawings = _edges(paths, bad)
        else:
            chosen = None if layer == "auto" else layer
            drawings = _of_model(source, paths, bad, method, chosen, channel)
        rows = _written(drawings, out, "heat map" if method in HEAT else "drawing")
    for path, reason in bad.items():
        console.warn(f"{path}: {reason}")
    if rows:
        console.table(
            method if method == "edges" else f"{method} of {source}",
            list(rows[0]),
            [[_cell(value) for value in row.values()] for row in rows],
        )
    if bad:
        path, reason = next(iter(bad.items()))
        raise DataError(
            f"{len(bad)} of {len(paths)} pictures cannot be read", where=path, received=reason
        )


def _cell(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _refuse_useless(method: str, layer: str, channel: int | None, given: list[str]) -> None:
    """Refuses what a method does not look at, and pictures that it lacks."""
    layered = ("gradcam", "gradcam++", *MAPS)
    for option, value, methods in (("--layer", layer, layered), ("--channel", channel, MAPS)):
        if value not in ("auto", None) and method not in methods:
            raise UsageError(
                f"Method {method!r} takes no {option}",
                expected=f"it with {', '.join(methods)}",
                received=f"{option} {value}",
            )
    if method == "filters" and given:
        raise UsageError("The filters are drawn without pictures", received=", ".join(given))
    if method != "filters" and not given:
        raise UsageError("No pictures given", todo="name them behind the model")


def _readable(
    paths: list[Path], read: Callable[[Path], np.ndarray], bad: dict[str, str]
) -> Iterator[tuple[Path, np.ndarray]]:
    """Yields the pictures that can be read, and enters in `bad` why others cannot."""
    from cnnkit.data import PictureError

    for path in paths:
        try:
            yield path, read(path)
        except PictureError as error:
            bad[str(path)] = error.reason


def _edges(paths: list[Path], bad: dict[str, str]) -> Iterator[Drawing]:
    """Yields each picture with its responses to the edge filters."""
    import numpy as np

    from cnnkit.analysis import drawing
    from cnnkit.analysis import filters
    from cnnkit.data import pictures

    def read(path: Path) -> np.ndarray:
        content = pictures.read(path)
        facts = pictures.inspect(content, path.suffix)
        size = (facts.height, facts.width)
        return pictures.decode(content, size, 1, "squash")[..., 0].astype(np.float32)

    for path, picture in _readable(paths, read, bad):
        shown = [picture, *(filters.filtered(picture, name) for name in filters.EDGE_FILTERS)]
        image = drawing.sheet(drawing.stretched(np.stack(shown)), columns=2)
        told = {"picture": str(path), "filters": list(filters.EDGE_FILTERS)}
        yield drawing.enlarged(image, min(image.size)), path.stem, told


def _of_model(
    source: Path,
    paths: list[Path],
    bad: dict[str, str],
    method: str,
    layer: str | None,
    channel: int | None,
) -> Iterator[Drawing]:
    import numpy as np

    from cnnkit.analysis.maps import maps_of
    from cnnkit.data import decode
    from cnnkit.training.predict import predict_keras
    from export.subject import open_subject

    subject = open_subject(source)
    model = subject.model
    if method == "filters":
        yield _filters(model)
        return
    if method in MAPS:
        count = maps_of(model, layer).shape[-1]
        if channel is not None and channel >= count:
            raise UsageError(
                "No such channel", expected=f"--channel from 0 to {count - 1}", received=channel
            )
    height, width, channels = model.input_shape[1:]

    def read(path: Path) -> np.ndarray:
        return decode(path, (height, width), channels, subject.resize)

    readable = dict(_readable(paths, read, bad))
    if not readable:
        return
    x = np.stack(list(readable.values()))
    if method == "top":
        yield from _top(model, x, list(map(str, readable)), layer, channel)
        return
    probabilities = predict_keras(model, x)
    answers = probabilities.argmax(1)
    if method in HEAT:
        drawn = _heat(model, x, method, layer, answers)
    else:
        draw = _activations if method == "activations" else _projections
        drawn = draw(model, x, layer, channel)
    names = subject.labels or [f"class {k}" for k in range(probabilities.shape[1])]
    rows = zip(readable, drawn, answers, probabilities, strict=True)
    for path, (image, seen), answer, p in rows:
        told = {"picture": str(path), "class": names[answer], "probability": float(p[answer])}
        yield image, path.stem, {**told, **seen}


def _heat(
    model: keras.Model, x: np.ndarray, method: str, layer: str | None, answers: np.ndarray
) -> Iterator[tuple[Image.Image, dict[str, Any]]]:
    from cnnkit.analysis import drawing
    from cnnkit.analysis import heat_maps

    if method == "occlusion":
        heat = heat_maps.occlusion(model, x, answers)
    else:
        draw = heat_maps.grad_cam if method == "gradcam" else heat_maps.grad_cam_plus_plus
        heat = draw(model, x, answers, layer)
    for picture, one in zip(x, heat, strict=True):
        yield drawing.overlay(picture, one), {}


def _activations(
    model: keras.Model, x: np.ndarray, layer: str | None, channel: int | None
) -> Iterator[tuple[Image.Image, dict[str, Any]]]:
    """Yields each picture under the maps of the channels that answer to it most."""
    import numpy as np

    from cnnkit.analysis import drawing
    from cnnkit.analysis import filters
    from cnnkit.analysis import heat_maps

    for picture, maps in zip(x, filters.activation_maps(model, x, layer), strict=True):
        strongest = np.argsort(-maps.max((0, 1)), kind="stable")[:_SHOWN].tolist()
        shown = strongest if channel is None else [channel]
        heat = heat_maps.over_pictures(np.moveaxis(maps[..., shown], -1, 0), picture)
        image = drawing.sheet(np.stack([drawing.blended(picture, one) for one in heat]) / 255)
        yield drawing.enlarged(image, min(x.shape[1:3])), {"channels": shown}


def _projections(
    model: keras.Model, x: np.ndarray, layer: str | None, channel: int | None
) -> Iterator[tuple[Image.Image, dict[str, Any]]]:
    """Yields each picture beside what in it made the strongest channel answer."""
    import numpy as np

    from cnnkit.analysis import drawing
    from cnnkit.analysis import filters
    from cnnkit.analysis.deconvnet import deconvnet

    maps = filters.activation_maps(model, x, layer).max((1, 2))
    channels = maps.argmax(1) if channel is None else np.full(len(x), channel)
    projected = np.zeros(x.shape)
    for one in np.unique(channels):
        chosen = channels == one
        projected[chosen] = deconvnet(model, x[chosen], layer, int(one))
    for picture, pixels, one in zip(x, drawing.stretched(projected), channels, strict=True):
        image = drawing.sheet(np.stack([picture / 255, pixels]), columns=2)
        yield drawing.enlarged(image, min(x.shape[1:3])), {"channel": int(one)}


def _top(
    model: keras.Model, x: np.ndarray, names: list[str], layer: str | None, channel: int | None
) -> Iterator[Drawing]:
    """Yields for each channel the pictures that it answers to most, strongest first."""
    from cnnkit.analysis import drawing
    from cnnkit.analysis import filters

    top = filters.top_pictures(model, x, layer, min(_SHOWN, len(x)))
    for one in range(len(top)) if channel is None else [channel]:
        image = drawing.sheet(x[top[one]] / 255)
        told = {"channel": one, "pictures": [names[k] for k in top[one]]}
        yield drawing.enlarged(image, min(x.shape[1:3])), f"channel-{one}", told


def _filters(model: keras.Model) -> Drawing:
    from cnnkit.analysis import drawing
    from cnnkit.analysis import filters

    found = filters.first_filters(model)
    image = drawing.sheet(found)
    told = {"filters": len(found), "size": "{}x{}x{}".format(*found.shape[1:])}
    return drawing.enlarged(image, min(image.size)), "filters", told


def _written(drawings: Iterator[Drawing], out: Path, column: str) -> list[dict[str, Any]]:
    """Writes the drawings and their index, if there are any, and returns a row for each."""
    made = list(drawings)
    digits, rows = len(str(len(made))), []
    if not made:
        return []
    with files.replacing(out) as folder:
        folder.mkdir()
        for k, (image, stem, told) in enumerate(made, 1):
            name = f"{k:0{digits}d}-{stem}.png"
            image.save(folder / name)
            rows.append({**told, column: str(out / name)})
        files.write_json(folder / INDEX, rows)
    return rows
