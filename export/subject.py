"""What is compressed, exported or judged: a model with its labels and, if there are any, data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnnkit.errors import UsageError
from export.quantization import ranges
from export.runtime import RESIZE
from export.runtime import Runnable
from export.runtime import home
from export.runtime import of_keras
from export.runtime import open_model
from export.wrap import as_classifier
from export.wrap import check

if TYPE_CHECKING:
    import keras

    from cnnkit.data import Dataset
    from cnnkit.data import Manifest
    from cnnkit.training.recipe import Recipe
    from export.quantization.ranges import Ranges

MODEL = "model.keras"
FINETUNE_LR = 3e-4
MANIFEST = "data.manifest.json"


@dataclass(frozen=True)
class Subject:
    """A deployable model and what belongs to it.

    Attributes:
        name: Short name, safe in file names and URLs.
        model: Deployable classifier: raw pixels in, probabilities out.
        dataset: Labelled pictures at the model's size, or None.
        recipe: The recipe that it was made with, or the default.
        labels: Class names, or None if nobody knows them.
        notes: What had to be added or assumed.
        origin: The run folder or model file, or None.
        ranges: Of activations, if the model was trained for int8; files in int8 then take them
            instead of calibrating.
    """

    name: str
    model: keras.Model
    dataset: Dataset | None
    recipe: Recipe
    labels: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    origin: Path | None = None
    ranges: Ranges | None = None

    @property
    def resize(self) -> str:
        """Name of the rule that brings a picture to the model's size."""
        return self.recipe.data.resize


def open_subject(
    source: keras.Model | str | Path,
    data: Dataset | str | Path | None = None,
    recipe: Recipe | None = None,
    sets: Sequence[str] = (),
) -> Subject:
    """Opens a run folder, a bundle, a `.keras` file or a model, with `data` if given.

    A run folder and a bundle know their data, and which picture is in which split.

    Args:
        source: What to open.
        data: Labelled pictures, or where they are.
        recipe: Of a model or a file; run folders and bundles have their own.
        sets: Keys of the recipe to change, such as `data.pixel_range=0-1`.

    Raises:
        UsageError: If it is not a classifier of pictures, the data do not fit it, or a key or a
            value is wrong.
        DataError: If the data cannot be used.
    """
    from cnnkit.models.saving import load_model
    from cnnkit.training.recipe import Compress
    from cnnkit.training.recipe import Recipe
    from cnnkit.training.recipe import resolve
    from cnnkit.training.recipe import to_dict
    from cnnkit.training.train import Run
    from export.bundle import Bundle

    def changed(recipe: Recipe) -> Recipe:
        return resolve(sets=sets, **to_dict(recipe)).recipe if sets else recipe

    # Nobody knows how this model was trained: a rate that spoils no pretrained weights.
    recipe = changed(recipe or Recipe(compress=Compress(finetune_lr=FINETUNE_LR)))
    if not isinstance(source, str | Path):
        return _wrapped(source, source.name, data, recipe, None)
    path = home(Path(source))
    if path.is_dir() and (path / Bundle.MANIFEST).is_file():
        bundle = Bundle.open(path)
        manifest = bundle.data_manifest()
        recipe = changed(bundle.recipe())
        return _wrapped(bundle.model(), bundle.name, data, recipe, path, manifest, bundle.labels)
    if path.is_dir() and (path / MODEL).is_file() and not (path / MANIFEST).is_file():
        return _wrapped(load_model(path / MODEL), path.resolve().name, data, recipe, path)
    if path.is_dir():
        run = Run.open(path)
        labels = tuple(run.manifest.classes)
        name, recipe = path.resolve().name, changed(run.recipe)
        return _wrapped(run.model(), name, data, recipe, path, run.manifest, labels)
    return _wrapped(load_model(path), path.stem, data, recipe, path)


def open_judge(source: str | Path, data: str | Path | None = None) -> tuple[Runnable, Dataset]:
    """Opens anything that classifies pictures, and the data to judge it on.

    Args:
        source: What `export.runtime.open_model` opens.
        data: Labelled pictures. A run folder, a bundle and a file in a bundle know their own,
            and which pictures were trained on.

    Raises:
        UsageError: If it cannot be run, or there are no data, or they do not fit it.
        DataError: If the data cannot be used.
    """
    from export.bundle import Bundle

    path = Path(source)
    served = any((path / place / "saved_model.pb").is_file() for place in (".", "1"))
    if path.suffix == ".keras" or (path.is_dir() and not served):
        subject = open_subject(path, data)
        dataset = subject.dataset
        runnable = of_keras(path, subject.model, subject.labels, subject.resize, subject.notes)
    else:
        runnable = open_model(path)
        above = path.resolve().parents
        around = next((f for f in above if (f / Bundle.MANIFEST).is_file()), None)
        manifest = Bundle.open(around).data_manifest() if around else None
        dataset = load_dataset(data, runnable.input_shape, runnable.resize, manifest)
    if dataset is None:
        raise UsageError("No data to judge it on", where=path, todo=f"`cnnkit eval {path} DATA`")
    require_classes(runnable.labels, dataset, data or path)
    return runnable, dataset


def load_dataset(
    data: Dataset | str | Path | None,
    input_shape: tuple[int, int, int],
    resize: str = RESIZE,
    manifest: Manifest | None = None,
    recipe: Recipe | None = None,
) -> Dataset | None:
    """Returns pictures of `input_shape`: from `data`, else from what `manifest` lists.

    Data that `manifest` was made from keep its splits.
    """
    import cnnkit.data
    from cnnkit.training.recipe import Recipe

    if not (data is None or isinstance(data, str | Path)):
        return data
    if data is not None and not (manifest and _same_place(manifest.path, data)):
        recipe = recipe or Recipe()
        manifest = cnnkit.data.check(
            data,
            split=recipe.data.split,
            seed=recipe.data.seed,
            on_bad_image=recipe.data.on_bad_image,
            group_by=recipe.data.group_by,
            near_dups=recipe.data.near_dups,
        )
    if manifest is None:
        return None
    height, width, channels = input_shape
    chosen = (recipe or Recipe()).data
    return cnnkit.data.load(
        manifest,
        image_size=(height, width),
        channels=channels,
        resize=resize,
        cache=chosen.cache or None,
        in_memory=chosen.in_memory,
    )


def safe_name(text: str) -> str:
    """Returns `text` as a short name of ASCII letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text[:100]).strip("._-") or "model"


def _same_place(known: str, data: str | Path) -> bool:
    return known == str(data) or (Path(data).exists() and Path(known) == Path(data).resolve())


def _wrapped(
    model: keras.Model,
    name: str,
    data: Dataset | str | Path | None,
    recipe: Recipe,
    origin: Path | None,
    manifest: Manifest | None = None,
    labels: tuple[str, ...] | None = None,
) -> Subject:
    check(model)
    dataset = load_dataset(data, model.input_shape[1:], recipe.data.resize, manifest, recipe)
    if dataset is not None:
        require_classes(labels, dataset, data)
    # The model in a folder takes raw pixels, whatever the file took that it was made from.
    folder = origin is not None and origin.is_dir()
    model, notes = as_classifier(model, dataset, None if folder else recipe.data.pixel_range)
    if dataset is not None:
        labels = tuple(dataset.classes)
    learned = None
    if origin is not None and folder:
        learned = ranges.load(origin) or ranges.load(origin / "keras")  # of a run, of a bundle
    return Subject(safe_name(name), model, dataset, recipe, labels, tuple(notes), origin, learned)


def require_classes(labels: tuple[str, ...] | None, dataset: Dataset, where: object) -> None:
    """Raises UsageError if the data have other classes than the model."""
    if labels and tuple(dataset.classes) != tuple(labels):
        raise UsageError(
            "The data have other classes than the model was trained on",
            where=where,
            expected=", ".join(labels[:8]),
            received=", ".join(dataset.classes[:8]),
        )
