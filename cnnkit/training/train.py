"""`train`: from labelled pictures to a run folder."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import importlib.util
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from cnnkit import data as sources
from cnnkit import files
from cnnkit import models
from cnnkit.errors import UsageError
from cnnkit.models.saving import load_model
from cnnkit.training import dry_run
from cnnkit.training import similarity
from cnnkit.training import unfreezing
from cnnkit.training.augment import preset
from cnnkit.training.devices import devices
from cnnkit.training.fit import RATES
from cnnkit.training.keeper import BEST
from cnnkit.training.keeper import METRICS
from cnnkit.training.keeper import rank
from cnnkit.training.network import build
from cnnkit.training.network import deployable as deployable
from cnnkit.training.pipeline import batch_size_for
from cnnkit.training.recipe import Recipe
from cnnkit.training.recipe import Resolved
from cnnkit.training.recipe import flat
from cnnkit.training.recipe import resolve
from cnnkit.training.recipe import to_dict
from cnnkit.training.recipe import to_toml
from cnnkit.training.reporter import Reporter
from cnnkit.training.trainer import CONFIG
from cnnkit.training.trainer import HEALTH
from cnnkit.training.trainer import MODEL
from cnnkit.training.trainer import Training

MANIFEST = "data.manifest.json"
ENVIRONMENT = "environment.json"
PACKAGES = ("cnnkit", "keras", "tensorflow", "numpy", "pillow", "scikit-learn")


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        folder: Where it is.
        manifest: The pictures, and which split each is in.
        recipe: The recipe, with everything chosen that it left open.
    """

    folder: Path
    manifest: sources.Manifest
    recipe: Recipe

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Opens what `train` left.

        Raises:
            UsageError: If it is not a run folder.
        """
        folder = Path(folder)
        missing = [name for name in (MANIFEST, CONFIG) if not (folder / name).is_file()]
        if missing:
            raise UsageError(
                "Not a run folder",
                where=folder,
                expected=f"{MANIFEST} and {CONFIG} in it",
                received=f"no {' and no '.join(missing)}",
                todo="make one with `cnnkit train DATA --out FOLDER`",
            )
        return cls(
            folder, sources.Manifest.load(folder / MANIFEST), resolve(folder / CONFIG).recipe
        )

    def dataset(self) -> sources.Dataset:
        """Loads the pictures at the size of the model."""
        return load(self.manifest, self.recipe)

    def model(self) -> keras.Model:
        """Loads the finished model.

        Raises:
            UsageError: If training has not finished, or the file is damaged.
        """
        if not (self.folder / MODEL).is_file():
            raise UsageError(
                "Training has not finished in this run",
                where=self.folder,
                expected=MODEL,
                todo=f"go on with `cnnkit resume {self.folder}`, or use its best weights so far: "
                f"{self.folder / BEST}",
            )
        return load_model(self.folder / MODEL)

    @property
    def best(self) -> dict[str, float]:
        """The row of `metrics.csv` of the best epoch, by what training ranks them by."""
        return max(self.metrics, key=rank)

    @property
    def health(self) -> list[str]:
        """What was wrong in the layers when they were last looked at in training, in words."""
        path = self.folder / HEALTH
        looks = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        return looks[-1]["said"] if looks else []

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The rows of `metrics.csv` without missing values; none if there was no training."""
        if not (self.folder / METRICS).is_file():
            return []
        with (self.folder / METRICS).open(newline="", encoding="utf-8") as file:
            return [
                {key: int(v) if key == "epoch" else float(v) for key, v in row.items() if v}
                for row in csv.DictReader(file)
            ]


def train(
    data: str | Path | sources.Manifest | None = None,
    recipe: Recipe | Resolved | None = None,
    out: str | Path = "runs/train",
    *,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Trains a network on labelled pictures and leaves a run folder at `out`.

    The split is made before anything is computed; mean and deviation are of the training split.
    Where several processes train together, see `devices`, each calls this with the same arguments,
    and the first one writes; to resume, all must be able to read its folder.

    Args:
        data: Where the pictures are, or what `check` found there; None takes it from the recipe.
        recipe: Every choice; None is the default recipe.
        out: The run folder.
        overwrite: Replaces a run that is there.
        reporter: Told about every step.

    Raises:
        UsageError: If there is something at `out`, or another process works there, or the recipe
            does not fit the data.
        DataError: If the data cannot be used.
        DivergedError: If the loss became NaN; the last good weights are in `out`.
        CnnkitError: If `out` cannot be written; `resume` goes on from the last epoch.
    """
    out, reporter = Path(out), reporter or Reporter()
    resolved = recipe if isinstance(recipe, Resolved) else Resolved.of(recipe or Recipe())
    if data is not None:
        path = data.path if isinstance(data, sources.Manifest) else str(data)
        resolved = resolved.updated("argument", data={"path": path})
    if not resolved.recipe.data.path:
        raise UsageError("No data given", expected="`data`, or data.path in the recipe")
    with devices(resolved.recipe.device.strategy) as mesh:
        if mesh.chief:
            files.require_free(out, ENVIRONMENT, overwrite=overwrite)
        manifest = data if isinstance(data, sources.Manifest) else check(resolved.recipe, reporter)
        dataset, resolved = chosen(manifest, resolved, reporter)
        manifest = dataset.manifest
        recipe = resolved.recipe
        training = Training(dataset, recipe, reporter, mesh)
        with files.owned(out) if mesh.chief else contextlib.nullcontext():
            if mesh.chief:
                # Again: another may have trained here while the pictures were checked.
                files.require_free(out, ENVIRONMENT, overwrite=overwrite)
                files.clear(out)
                _begin(out, manifest, resolved)
            size = "x".join(map(str, dataset.image_shape))
            reporter.step(f"training {recipe.model.name} on {size} pictures")
            training.run(out)
    return Run(out, manifest, training.recipe)


def _begin(out: Path, manifest: sources.Manifest, resolved: Resolved) -> None:
    """Writes what a run folder has from the start: all that `resume` needs."""
    recipe = resolved.recipe
    files.write_json(out / ENVIRONMENT, environment(recipe.train.seed))
    files.write_text(out / CONFIG, to_toml(recipe))
    values = flat(to_dict(recipe))
    origins = {k: {"value": v, "from": resolved.origin[k]} for k, v in values.items()}
    files.write_json(out / "config.resolved.json", origins)
    files.write_json(out / "classes.json", manifest.classes)
    manifest.save(out / MANIFEST)


def resume(folder: str | Path, reporter: Reporter | None = None) -> Run:
    """Goes on with a training that was killed, from the end of its last epoch.

    The weights it ends with are those of the training that was never killed: bit for bit with
    `train.deterministic` on a CPU. A run that has finished is left as it is.

    Args:
        folder: The run folder, which holds everything there is to know.
        reporter: Told about every step.

    Raises:
        UsageError: If it is not a run folder, its checkpoint is damaged, or another process works
            in it.
        DataError: If the data has changed.
        DivergedError: If the loss became NaN; the last good weights are in the folder.
    """
    run, reporter = Run.open(folder), reporter or Reporter()
    if (run.folder / MODEL).is_file():
        reporter.note(f"{run.folder} has finished before")
        return run
    with (
        devices(run.recipe.device.strategy) as mesh,
        files.owned(run.folder) if mesh.chief else contextlib.nullcontext(),
    ):
        training = Training(run.dataset(), run.recipe, reporter, mesh)
        reporter.step(f"going on with {run.recipe.model.name} in {run.folder}")
        training.run(run.folder, resume=True)
    return Run(run.folder, run.manifest, training.recipe)


def check(recipe: Recipe, reporter: Reporter | None = None) -> sources.Manifest:
    """Opens and splits the pictures that a recipe names.

    Raises:
        DataError: If they cannot be used.
    """
    reporter = reporter or Reporter()
    reporter.step(f"checking {recipe.data.path}")
    manifest = sources.check(
        recipe.data.path,
        split=recipe.data.split,
        seed=recipe.data.seed,
        on_bad_image=recipe.data.on_bad_image,
        group_by=recipe.data.group_by,
        near_dups=recipe.data.near_dups,
    )
    reporter.note(manifest.summary())
    for problem in manifest.problems:
        if problem.action != "ignored":
            reporter.warn(f"{problem.path}: {problem.reason} ({problem.action})")
    return manifest


def chosen(
    manifest: sources.Manifest, resolved: Resolved, reporter: Reporter | None = None
) -> tuple[sources.Dataset, Resolved]:
    """Opens the pictures, and chooses what the recipe leaves open, such as network and rate."""
    recipe, reporter = resolved.recipe, reporter or Reporter()
    if recipe.model.name.startswith(models.APPLICATIONS) and recipe.data.channels is None:
        resolved = resolved.updated("chosen for the model", data={"channels": 3})
        recipe = resolved.recipe
    dataset = load(manifest, recipe)
    height, width, channels = dataset.image_shape
    name, given = recipe.model.name, recipe.train
    batch_size = given.batch_size or batch_size_for(len(dataset.labels("train")))
    augment, why = preset(recipe, dataset.image_shape)
    if augment != recipe.augment.preset:
        reporter.note(f"augment.preset={augment}: {why}")
    resolved = resolved.updated(
        "chosen from the data",
        data={"image_size": [height, width], "channels": channels},
        model={"name": choose(dataset.image_shape) if name == "auto" else name},
        train={
            "batch_size": batch_size,
            "lr": given.lr or RATES[given.optimizer],
        },
        augment={"preset": augment},
    )
    if recipe.guard.dry_run:
        resolved = dry_run.shortened(resolved)
        dataset = load(dry_run.few(manifest, batch_size), resolved.recipe)
    if given.unfreeze == unfreezing.AUTO:
        plan = _unfrozen(dataset, resolved.recipe, reporter)
        resolved = resolved.updated("chosen from the data", train={"unfreeze": plan})
    return dataset, resolved


def _unfrozen(dataset: sources.Dataset, recipe: Recipe, reporter: Reporter) -> str:
    """Returns the layers that `auto` means."""
    if recipe.model.pretrained == "none":
        raise UsageError(
            "Only a network that knows something can be unfrozen by what it knows",
            where=f"train.unfreeze={unfreezing.AUTO}",
            expected="model.pretrained",
            received="none",
        )
    found = similarity.measure(build(recipe, dataset, Reporter()), dataset, recipe.train.seed)
    reporter.note(f"train.unfreeze={found.plan}: {found}")
    return found.plan


def choose(image_shape: tuple[int, int, int]) -> str:
    """Returns the network that `auto` means for pictures of this shape.

    LeNet-5 was made for grey characters of 28 to 32 pixels: on MNIST it trains ten times as
    fast as ResNet-8. Everything else gets ResNet-8.
    """
    height, width, channels = image_shape
    return (
        "lenet5"
        if channels == 1 and 28 <= min(height, width) <= max(height, width) <= 32
        else "resnet8"
    )


def environment(seed: int) -> dict[str, Any]:
    """Returns what else a run depends on: versions, machine, seed, command line."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "backend": keras.backend.backend(),
        "devices": keras.distribution.list_devices(),
        "seed": seed,
        "command": sys.argv,
    }


def load(manifest: sources.Manifest, recipe: Recipe) -> sources.Dataset:
    """Opens the pictures of a manifest as a recipe wants them."""
    size = recipe.data.image_size
    return sources.load(
        manifest,
        image_size=(size[0], size[1]) if size else None,
        channels=recipe.data.channels,
        resize=recipe.data.resize,
        cache=recipe.data.cache or None,
        in_memory=recipe.data.in_memory,
    )
