"""How fast pictures come, and how fast they are learned from: which of the two waits."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from cnnkit.data import Dataset
from cnnkit.data import pictures
from cnnkit.data.dataset import contents
from cnnkit.onednn import unit_strides
from cnnkit.training import unfreezing
from cnnkit.training.augment import Augmenter
from cnnkit.training.augment import augmenter
from cnnkit.training.devices import devices
from cnnkit.training.fit import fit
from cnnkit.training.imbalance import sampler
from cnnkit.training.network import build
from cnnkit.training.objective import loss_of
from cnnkit.training.objective import wrap_of
from cnnkit.training.pipeline import Batches
from cnnkit.training.pipeline import batch_size_for
from cnnkit.training.recipe import Recipe
from cnnkit.training.reporter import Reporter
from cnnkit.training.train import check
from cnnkit.training.train import choose
from cnnkit.training.train import load

# Steps at the start that are not counted: TensorFlow traces and tunes in them.
_WARM = 3


@dataclass(frozen=True)
class Stage:
    """What one part of the way from files to weights can do on its own.

    Attributes:
        name: What it does.
        pictures_per_s: How many pictures.
        ms: Milliseconds for as many as a batch has.
    """

    name: str
    pictures_per_s: float
    ms: float


@dataclass(frozen=True)
class Throughput:
    """How fast a training can go.

    Attributes:
        model: Name of the network.
        batch_size: Pictures a step.
        image_shape: `(height, width, channels)`.
        training: Pictures of the training split.
        stages: In the order in which pictures pass them.
        pipeline: The stage that makes batches in training.
        step: The stage that learns from a batch that is ready.
        whole: Training, in which both go on at a time.
    """

    model: str
    batch_size: int
    image_shape: tuple[int, int, int]
    training: int
    stages: tuple[Stage, ...]
    pipeline: Stage
    step: Stage
    whole: Stage

    @property
    def share(self) -> float:
        """Which part of a step of training is not the network's own: what the pipeline costs."""
        return max(0.0, 1 - self.step.ms / self.whole.ms)

    @property
    def input_bound(self) -> bool:
        """Whether the network waits for pictures: a faster network would train no faster."""
        return self.pipeline.ms > self.step.ms


def measure(recipe: Recipe, *, steps: int = 50, reporter: Reporter | None = None) -> Throughput:
    """Measures what each stage can do, on training pictures for `steps` batches, if there are.

    Reading is from the disk, or from what the system remembers of it. In training, files are
    decoded once, before the first epoch; then batches come from memory, or from a mapped file.

    Args:
        recipe: What is trained, and on which pictures.
        steps: Batches that are measured in each stage.
        reporter: Told about the check and about each stage.

    Raises:
        DataError: If the data cannot be used.
        UsageError: If the recipe does not fit the data.
    """
    reporter = reporter or Reporter()
    manifest = check(recipe, reporter)
    training = len(manifest.select("train"))
    batch_size = recipe.train.batch_size or batch_size_for(training)
    few = manifest.few("train", steps * batch_size)
    dataset = load(manifest.model_copy(update={"items": few}), recipe)
    if recipe.model.name == "auto":
        named = recipe.model.model_copy(update={"name": choose(dataset.image_shape)})
        recipe = recipe.model_copy(update={"model": named})

    def stage(name: str, seconds: float) -> Stage:
        """`seconds` are those of a picture."""
        return Stage(name, 1 / seconds, 1000 * seconds * batch_size)

    reporter.step("reading and decoding")
    stages = [stage(name, seconds) for name, seconds in _files(dataset).items()]
    reporter.step("making batches")
    with devices(recipe.device.strategy):
        change = augmenter(recipe, dataset)
        pipeline = stage("batches", _batches(recipe, dataset, batch_size, steps, None))
        stages.append(pipeline)
        if change:
            pipeline = stage(
                "augmented batches", _batches(recipe, dataset, batch_size, steps, change)
            )
            stages.append(pipeline)
        reporter.step(f"training {recipe.model.name}")
        together, alone = _train(recipe, dataset, batch_size, steps, change)
    step, whole = stage("step alone", alone), stage("training", together)
    return Throughput(
        recipe.model.name,
        batch_size,
        dataset.image_shape,
        training,
        (*stages, step, whole),
        pipeline,
        step,
        whole,
    )


def _files(dataset: Dataset) -> dict[str, float]:
    """Returns the seconds that a picture takes to be read, and to be read and decoded."""
    manifest = dataset.manifest
    items = manifest.select("train")
    if manifest.shape is not None:
        return {}
    height, width, channels = dataset.image_shape
    target = ((height, width), channels, dataset.resize)
    read = (
        source if isinstance(source, bytes) else pictures.read(source)
        for source in contents(manifest, items)
    )
    decoded = pictures.decode_all(contents(manifest, items), *target)
    return {
        "reading": _seconds(read) / len(items),
        "reading, decoding, resizing": _seconds(decoded) / len(items),
    }


def _seconds(work: Iterable[Any]) -> float:
    start = time.perf_counter()
    for _ in work:
        pass
    return time.perf_counter() - start


def _batches(
    recipe: Recipe, dataset: Dataset, batch_size: int, steps: int, change: Augmenter | None
) -> float:
    """Returns the seconds that a picture takes to come in a batch."""
    batches = Batches(
        *dataset.arrays("train"),
        len(dataset.classes),
        batch_size,
        recipe.train.seed,
        sampler(recipe, dataset),
        lambda _: change,
    )
    times = [time.perf_counter()]
    epochs = math.ceil((steps + _WARM) / len(batches))
    for _ in batches.stream(range(epochs)).take(steps + _WARM):
        times.append(time.perf_counter())
    return (times[-1] - times[_WARM]) / steps / _mean_size(batches)


def _mean_size(batches: Batches) -> float:
    return sum(map(len, batches.indices(0))) / len(batches)


def _train(
    recipe: Recipe, dataset: Dataset, batch_size: int, steps: int, change: Augmenter | None
) -> tuple[float, float]:
    """Returns the seconds a picture takes in training, and in steps on a batch that is ready."""
    import tensorflow as tf  # Its pipelines feed every backend.

    x, y = dataset.arrays("train")
    model = build(recipe, dataset, Reporter())
    chosen = sampler(recipe, dataset)
    seen = len(chosen(0)) if chosen else len(y)
    epochs = math.ceil((steps + _WARM) / math.ceil(seen / batch_size))
    clock = _Clock()
    fit(
        model,
        dataset,
        **{
            **dict(recipe.train),
            "batch_size": batch_size,
            "epochs": epochs,
            "unfreeze": unfreezing.final(recipe.train.unfreeze),
        },
        loss=loss_of(recipe, dataset),
        wrap=wrap_of(recipe, dataset, model),
        sampler=chosen,
        augment=lambda _: change,
        callbacks=[clock],
    )
    batch = Batches(x, y, len(dataset.classes), batch_size).stream().take(1).cache()
    ready = batch.repeat(steps + _WARM).prefetch(tf.data.AUTOTUNE)
    alone = _Clock()
    options = {"steps_per_epoch": steps + _WARM, "shuffle": False, "verbose": 0}
    with unit_strides():
        clock.model.fit(ready, callbacks=[alone], **options)
    size = min(batch_size, len(y))
    return clock.median() / size, alone.median() / size


class _Clock(keras.callbacks.Callback):
    """Remembers when each step of a training ended."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        float(logs["loss"])  # waits until it is known
        self.times.append(time.perf_counter())

    def median(self) -> float:
        """Returns the seconds of a step; the median, since between epochs other things are done."""
        return statistics.median(np.diff(self.times[_WARM:]).tolist())
