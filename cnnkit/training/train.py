"""`train`: from labelled pictures to a run folder."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import importlib.util
import json
import math
import platform
import sys
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnkit import data as sources
from cnnkit import files
from cnnkit import models
from cnnkit.analysis import curves
from cnnkit.analysis.logits import logits
from cnnkit.analysis.monitor import Monitor
from cnnkit.analysis.monitor import diagnosis
from cnnkit.errors import UsageError
from cnnkit.models import applications
from cnnkit.models.saving import load_model
from cnnkit.models.saving import save_model
from cnnkit.training import dry_run
from cnnkit.training import imbalance
from cnnkit.training import similarity
from cnnkit.training import unfreezing
from cnnkit.training.augment import augmenter
from cnnkit.training.augment import by_epoch
from cnnkit.training.augment import examples
from cnnkit.training.augment import preset
from cnnkit.training.devices import ONE
from cnnkit.training.devices import Mesh
from cnnkit.training.devices import devices
from cnnkit.training.devices import dtype_policy
from cnnkit.training.devices import out_of_memory
from cnnkit.training.devices import policy_of
from cnnkit.training.fit import RATES
from cnnkit.training.fit import History
from cnnkit.training.fit import fit
from cnnkit.training.imbalance import sampler
from cnnkit.training.initialize import initialize
from cnnkit.training.joint import joint_of
from cnnkit.training.keeper import BEST
from cnnkit.training.keeper import METRICS
from cnnkit.training.keeper import rank
from cnnkit.training.objective import loss_of
from cnnkit.training.objective import wrap_of
from cnnkit.training.pipeline import batch_size_for
from cnnkit.training.pretrained import load_weights
from cnnkit.training.recipe import Recipe
from cnnkit.training.recipe import Resolved
from cnnkit.training.recipe import flat
from cnnkit.training.recipe import resolve
from cnnkit.training.recipe import to_dict
from cnnkit.training.recipe import to_toml
from cnnkit.training.reporter import Journal
from cnnkit.training.reporter import Reporter

MODEL = "model.keras"
MANIFEST = "data.manifest.json"
CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
CHECKPOINTS = "checkpoints"
EVENTS = "events.jsonl"
AUGMENTED = "plots/augmented.png"
HEALTH = "health.json"
# Training pictures on which the layers are looked at, and how often in a training.
_WATCHED, _LOOKS = 256, 3
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


class Training:
    """A network that is ready to be trained.

    Attributes:
        recipe: Which this may change: a batch that does not fit the memory is halved.
    """

    def __init__(
        self,
        dataset: sources.Dataset,
        recipe: Recipe,
        reporter: Reporter,
        mesh: Mesh = ONE,
    ) -> None:
        self.dataset, self.recipe, self.reporter, self.mesh = dataset, recipe, reporter, mesh
        self.model = build(recipe, dataset, reporter)
        self.loss = loss_of(recipe, dataset)
        self.wrap = joint_of(recipe, dataset, self.model, reporter) or wrap_of(
            recipe, dataset, self.model
        )
        self.sampler, self.augmenter = sampler(recipe, dataset), augmenter(recipe, dataset)
        self.augment = by_epoch(self.augmenter, recipe, recipe.train.epochs, reporter)

    def run(self, folder: Path, *, resume: bool = False) -> None:
        """Trains, and writes the finished model."""
        start = self.model.get_weights()
        if self.recipe.imbalance.method != "none":
            self.reporter.note(imbalance.method(self.recipe, self.dataset)[1])
        if self.augmenter:
            self.reporter.note(f"augmented by {self.augmenter}")
            if self.mesh.chief:
                with files.replacing(folder / AUGMENTED) as partial:
                    examples(self.augmenter, self.dataset).save(partial)
        while True:
            look = self._monitor()
            try:
                with files.explained(folder):  # what TensorBoard writes, too
                    history = self._fit(folder, resume, look)
                break
            except Exception as error:
                batch_size = self.recipe.train.batch_size or 1
                if not out_of_memory(error) or batch_size < 2 or self.mesh.processes > 1:
                    raise
                self.reporter.warn(
                    f"out of memory with {batch_size} pictures a step: from the start, with half"
                )
            self.recipe = self.recipe.model_copy(
                update={
                    "train": self.recipe.train.model_copy(update={"batch_size": batch_size // 2})
                }
            )
            files.write_text(folder / CONFIG, to_toml(self.recipe))
            files.remove(folder / CHECKPOINTS)
            self.model.set_weights(start)
            resume = False
        finished = self._finished()
        if not self.mesh.chief:
            return
        save_model(finished, folder / MODEL)
        health = [{"epoch": epoch, "said": diagnosis(rows)} for epoch, rows in look.history]
        files.write_json(folder / HEALTH, health)
        for finding in curves.diagnosis(history.rows):
            tell = self.reporter.note if finding.name == curves.GOOD else self.reporter.warn
            tell(finding.text)
        self.reporter.note(f"the best of {len(history.rows)} epochs is {history.best_epoch}")

    def _fit(self, folder: Path, resume: bool, look: Monitor) -> History:
        guard, chief = self.recipe.guard, self.mesh.chief
        reporter = Journal(folder / EVENTS, self.reporter) if chief else self.reporter
        boards = _boards(folder) if chief else []
        if self.recipe.guard.dry_run:
            reporter.warn(dry_run.TOLD)
        return fit(
            self.model,
            self.dataset,
            **dict(self.recipe.train),
            loss=self.loss,
            wrap=self.wrap,
            sampler=self.sampler,
            augment=self.augment,
            patience=guard.patience,
            time_limit=guard.time_limit,
            retries=guard.max_rollbacks if guard.on_nan == "rollback" else 0,
            # The layers of a network that others hold too cannot be looked at by one process.
            callbacks=[*([look] if self.mesh.processes == 1 else []), *boards],
            folder=folder,
            resume=resume,
            mesh=self.mesh,
            reporter=reporter,
        )

    def _monitor(self) -> Monitor:
        """Returns what looks at the layers while they are trained."""
        x, y = sources.sample(self.dataset, _WATCHED)
        net = logits(self.model)
        net.compile(loss=self.loss)  # It is not trained, but has the gradients of what is.
        return Monitor(
            x.astype(np.float32),
            np.eye(len(self.dataset.classes), dtype=np.float32)[y],
            every=math.ceil(self.recipe.train.epochs / _LOOKS),
            tell=self.reporter.warn,
            net=net,
            start=False,
        )

    def _finished(self) -> keras.Model:
        """Returns the trained model, computing in float32."""
        if policy_of(self.recipe.device.mixed_precision) == "float32":
            return self.model
        plain = _network(self.recipe, self.dataset, "float32")
        plain.set_weights(self.model.get_weights())
        return plain


def _boards(folder: Path) -> list[keras.callbacks.Callback]:
    """Returns what writes for TensorBoard, if that is installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return []
    return [keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)]


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
    augment, why = preset(recipe, dataset)
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


def deployable(net: keras.Model, mean: Sequence[float], scale: Sequence[float]) -> keras.Model:
    """Returns `net` as a flat model from raw pixels `image` to `probabilities`.

    Computes `softmax(net((image - mean) / scale))`. The layers are copies.

    Args:
        net: Functional model from normalized pictures to logits.
        mean: Of each channel, in 0-255.
        scale: Standard deviation of each channel, positive.
    """
    copy = keras.models.clone_model(net, clone_function=_head_in_float32(net))
    copy.set_weights(net.get_weights())
    image = keras.Input(net.input_shape[1:], name="image", dtype="float32")
    x = keras.layers.Rescaling(
        [1 / s for s in scale],
        [-m / s for m, s in zip(mean, scale, strict=True)],
        name="pixels",
    )(image)
    # `call`, not the model itself: the copied layers land in one flat graph, not in a nested one.
    x = keras.layers.Softmax(name="probabilities", dtype="float32")(copy.call(x))
    flattened = keras.Model(image, x, name=net.name)
    # A last copy, whose layers have been called once: `layer.output` is then unambiguous.
    model = keras.models.clone_model(flattened)
    model.set_weights(flattened.get_weights())
    return model


def _head_in_float32(net: keras.Model) -> Callable[[keras.layers.Layer], keras.layers.Layer]:
    """Returns the copy of a layer; that of what makes the outputs computes in float32."""
    head = net.outputs[0]._keras_history.operation

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer is head and layer.compute_dtype != "float32":
            config["dtype"] = "float32"
        return type(layer).from_config(config)

    return copy


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


def _network(recipe: Recipe, dataset: sources.Dataset, policy: str) -> keras.Model:
    with dtype_policy(policy):
        net = models.build(
            recipe.model.name, dataset.image_shape, len(dataset.classes), width=recipe.model.width
        )
    if recipe.model.name.startswith(models.APPLICATIONS):
        return deployable(net, *applications.statistics(recipe.model.name))
    return deployable(net, *dataset.statistics())


def build(recipe: Recipe, dataset: sources.Dataset, reporter: Reporter) -> keras.Model:
    """Returns the network of a recipe, from raw pixels to probabilities, as training begins."""
    keras.utils.set_random_seed(recipe.train.seed)
    model = _network(recipe, dataset, policy_of(recipe.device.mixed_precision))
    initialize(model, recipe.model.init, dataset.arrays("train")[0], recipe.train.seed)
    if recipe.model.pretrained != "none":
        _pretrain(model, recipe, reporter)
    return model


def _pretrain(model: keras.Model, recipe: Recipe, reporter: Reporter) -> None:
    name, source = recipe.model.name, recipe.model.pretrained
    ready = name.startswith(models.APPLICATIONS)
    if source == "imagenet":
        if not ready:
            raise UsageError(
                "No weights of ImageNet are published for this network",
                where=f"model.name={name}",
                expected="a network of keras.applications, such as keras.applications.MobileNetV2",
            )
        shape = model.input_shape[1:]
        with applications.imagenet(name, shape, recipe.model.width) as path:
            loaded = load_weights(model, path)
    else:
        loaded = load_weights(model, source)
    # Networks that were trained here have the head `logits`, and have seen RGB.
    theirs = not loaded.holds("logits")
    if ready and theirs and applications.reversed_channels(name):
        applications.reverse_first_kernel(model)
        reporter.note("the first kernel is reversed: its weights expect BGR, and pictures are RGB")
    reporter.note(f"{source}: {loaded}")
