"""Weights from another network's file, where they fit."""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras

from cnnkit.errors import UsageError

MODEL = "model.keras"  # of a run folder
_WEIGHTS = "model.weights.h5"  # in a .keras file
# What else such a file can hold: the state of a training, and of dropout.
_STATE = ("optimizer", "seed_generator")


@dataclass(frozen=True)
class Loaded:
    """What became of the weights of a model and of a file; each as `layer/number in the layer`.

    Attributes:
        by: "name" of the layers; or "position" among the layers of a kind, where no name fits.
        matched: Taken over.
        mismatched: In both, with another shape, which is given.
        missing: In the model alone: left as they were.
        unused: In the file alone.
    """

    by: str
    matched: list[str]
    mismatched: list[str]
    missing: list[str]
    unused: list[str]

    def holds(self, layer: str) -> bool:
        """Returns whether the file has weights of a layer."""
        held = [*self.matched, *self.mismatched, *self.unused]
        return any(key.startswith(f"{layer}/") for key in held)

    def __str__(self) -> str:
        total = len(self.matched) + len(self.mismatched) + len(self.missing)
        parts = [f"{len(self.matched)} of {total} weights by {self.by}"]
        for what in ("mismatched", "missing", "unused"):
            if found := getattr(self, what):
                more = f" and {len(found) - 8} more" if len(found) > 8 else ""
                parts.append(f"{what}: {', '.join(found[:8])}{more}")
        return "; ".join(parts)


def load_weights(model: keras.Model, path: str | Path) -> Loaded:
    """Gives `model` the weights of a file that have the same place and shape, in place.

    Of a file, numbers alone are read: nothing in it is run, and its layers need not be known.

    Args:
        model: Any built model.
        path: A `.keras` or `.weights.h5` file, a `.h5` file of Keras 2, or a run folder.

    Raises:
        UsageError: If there is no such file, it is damaged, or none of its weights fits.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, "own.weights.h5")
        model.save_weights(own)
        with _opened(path, folder) as theirs, h5py.File(own, "r+") as mine:
            loaded = _copy(theirs, mine, "name")
            if not loaded.matched:
                loaded = _copy(theirs, mine, "position")
        if not loaded.matched:
            raise UsageError(
                "None of the weights in the file fits the model", where=path, received=loaded
            )
        model.load_weights(own)
    return loaded


@contextlib.contextmanager
def _opened(path: Path, folder: str) -> Iterator[Any]:
    path = path / MODEL if path.is_dir() else path
    try:
        source = path
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                source = Path(archive.extract(_WEIGHTS, folder))
        file = h5py.File(source, "r")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(
            "No weights can be read",
            where=path,
            expected="a .keras, .weights.h5 or .h5 file, or a run folder",
            received=error,
        ) from error
    with file:
        yield file


def _copy(theirs: Any, mine: Any, by: str) -> Loaded:
    given, wanted = _weights(theirs, by), _weights(mine, by)
    matched = [key for key in wanted if key in given and given[key].shape == wanted[key].shape]
    for key in matched:
        wanted[key][...] = given[key][...]
    return Loaded(
        by,
        matched,
        [
            f"{key} {given[key].shape} for {wanted[key].shape}"
            for key in wanted
            if key in given and key not in matched
        ],
        [key for key in wanted if key not in given],
        [key for key in given if key not in wanted],
    )


def _weights(file: Any, by: str) -> dict[str, Any]:
    """Returns the weights of a file as Keras writes it, `layers/conv2d_1/vars/0` and so on."""
    if "layer_names" in (old := file.get("model_weights", file)).attrs:
        return _old_weights(old, by)
    found: dict[str, Any] = {}

    def visit(path: str, item: Any) -> None:  # links to other files are not visited
        groups = path.split("/")
        if not isinstance(item, h5py.Dataset) or "vars" not in groups:
            return
        elsewhere = item.external or item.is_virtual
        if elsewhere or any(group in _STATE for group in groups):
            return
        layers = groups[: groups.index("vars")]
        names = layers if by == "position" else _names(file, layers)
        found["/".join([*names, *groups[len(layers) + 1 :]])] = item

    file.visititems(visit)
    return found


def _old_weights(file: Any, by: str) -> dict[str, Any]:
    """Returns the weights of a file as Keras 2 wrote it, by name alone."""
    if by == "position":
        return {}
    found = {}
    for layer in file.attrs["layer_names"]:
        layer = layer.decode() if isinstance(layer, bytes) else layer
        for number, name in enumerate(file[layer].attrs["weight_names"]):
            item = file[layer][name]
            if not (item.external or item.is_virtual):
                found[f"{layer}/{number}"] = item
    return found


def _names(file: Any, groups: list[str]) -> list[str]:
    """Returns the names of the layers that a path goes through; older files do not have them."""
    names = []
    for end in range(1, len(groups) + 1):
        own = file.get("/".join([*groups[:end], "vars"]))
        if own is not None:
            names.append(str(own.attrs.get("name", groups[end - 1])))
    return names
