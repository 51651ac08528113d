"""An ordered list of compression passes, each checked and entered in the ledger."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from cnnkit import files
from cnnkit.data import sample
from cnnkit.errors import CnnkitError
from cnnkit.errors import UsageError
from cnnkit.training.predict import predict_keras
from export import ledger
from export import passes as registry
from export.ledger import Row
from export.quantization import ranges

if TYPE_CHECKING:
    import keras

    from cnnkit.data import Dataset
    from cnnkit.training.augment import Augmenter
    from cnnkit.training.recipe import Compress
    from cnnkit.training.recipe import Recipe
    from cnnkit.training.reporter import Reporter
    from export.passes import Pass
    from export.result import Invariant
    from export.result import Result
    from export.subject import Subject

# Pictures that a pass may look at; more would not change a channel's rank.
SAMPLE = 512
LEDGER = "ledger.json"
COMPRESSION = "compression.json"
STEPS = "steps.json"


@dataclass(frozen=True)
class PassData:
    """What a pass may learn from.

    Attributes:
        x: Raw training pixels `(n, height, width, channels)` float32, or None without data.
        y: Their labels, or None.
        recover: Fine-tunes a model as the recipe says, under its teacher if it names one, and
            returns it; without data it returns it as it is. Classes are seen and weighed, and
            pictures augmented, as in training. The invariants of earlier passes are kept.
        train: The same with keyword arguments of `cnnkit.training.fit.fit` that differ from the
            recipe's, such as `epochs`, `lr`, `callbacks`, `keep_best`.
        original: The model before the first pass, to be used as a teacher; or None.
    """

    x: np.ndarray | None
    y: np.ndarray | None
    recover: Callable[[keras.Model], keras.Model]
    train: Callable[..., keras.Model] | None = None
    original: keras.Model | None = None


@dataclass(frozen=True)
class Compressed:
    """What a pipeline leaves.

    Attributes:
        subject: The small plain Keras model with its labels and data.
        ledger: One row for the model that came in, and one after each pass.
        results: What each pass did, in order.
    """

    subject: Subject
    ledger: list[Row]
    results: list[Result]

    @property
    def model(self) -> keras.Model:
        """The small plain Keras model."""
        return self.subject.model


def compress(
    model: keras.Model | str | Path | Subject,
    passes: Sequence[Pass | str],
    data: Dataset | str | Path | None = None,
    *,
    recipe: Recipe | None = None,
    reporter: Reporter | None = None,
    checkpoint: Path | None = None,
) -> Compressed:
    """Applies `passes` in order; after each, fine-tunes and checks that the model is sound.

    Args:
        model: A Keras classifier of pictures, its file, or a run folder. It is not changed.
        passes: Such as "prune-filters:ratio=0.3".
        data: Labelled pictures, or where they are. Without them nothing is fine-tuned, unless
            a run folder knows its own.
        recipe: Section `compress` says how to fine-tune, `train` the rest.
        reporter: Told about every step.
        checkpoint: A folder that is kept up to date after every pass. If it holds the first of
            these passes on the same model, they are not done again.

    Raises:
        UsageError: If a pass is unknown, has a wrong option or cannot work on this model.
        DataError: If the data cannot be used.
    """
    from cnnkit.training.reporter import Reporter
    from export.subject import Subject
    from export.subject import open_subject

    parsed = [registry.parse(p) if isinstance(p, str) else p for p in passes]
    from export.pruning.kernels import copied  # Keras: not before a wrong pass is refused

    reporter = reporter or Reporter()
    subject = model if isinstance(model, Subject) else open_subject(model, data, recipe)
    dataset, recipe = subject.dataset, recipe or subject.recipe
    source = _digest(subject.model, recipe)
    done = _resumed(checkpoint, source, parsed, subject)
    if done is None:
        done = Compressed(subject, [_row("original", subject.model, dataset)], [])
    elif done.results:
        reporter.note(f"{len(done.results)} of {len(parsed)} passes were done before")
    small, rows, results = done.model, done.ledger, done.results
    learned = done.subject.ranges
    invariants = [i for step in parsed[: len(results)] for i in step.invariants(small)]
    train = _trainer(subject, recipe, invariants, reporter)
    x, y = _sample(dataset)
    for number, step in enumerate(parsed[len(results) :], len(results) + 1):
        reporter.step(f"compressing: {step}")
        result = step.apply(small, PassData(x, y, train, train, subject.model))
        for note in result.notes:
            reporter.note(note)
        if result.missed:
            reporter.warn(f"{step} missed its target: {result.missed}")
        # A pass that found nothing to do may return what it was given, which is not to be trained.
        invariants += result.invariants
        after = result.model
        if result.ranges is None:
            after = train(copied(small) if after is small else after)
            if learned is not None:
                reporter.note(f"{step} changes the model: the int8 ranges of before are dropped")
        learned = result.ranges
        _check(small, after, str(step), x)
        for invariant in invariants:
            if reason := invariant.broken(after):
                raise UsageError(
                    "A pass undoes what an earlier one did",
                    where=step,
                    received=reason,
                    todo="put the passes in another order",
                )
        small = after
        results.append(result)
        rows.append(_row(f"{number} {step}", small, dataset))
        done = Compressed(replace(subject, model=small, ranges=learned), rows, results)
        if checkpoint:
            names = [str(p) for p in parsed[:number]]
            write_run(done, checkpoint, {"source": source, "passes": names})
    return done


def _digest(model: keras.Model, recipe: Recipe) -> str:
    """Returns a hash of all that the result of a pass depends on, but for the pictures."""
    found = hashlib.sha256(f"{model.to_json()}{recipe!r}".encode())
    for weights in model.get_weights():
        found.update(weights.tobytes())
    return found.hexdigest()


def _resumed(
    checkpoint: Path | None, source: str, parsed: Sequence[Pass], subject: Subject
) -> Compressed | None:
    """Returns what a checkpoint holds of these passes on this model, or None."""
    from cnnkit.models.saving import load_model
    from cnnkit.training import trainer
    from export.result import Result

    if checkpoint is None or not (checkpoint / STEPS).is_file():
        return None
    steps = json.loads((checkpoint / STEPS).read_text(encoding="utf-8"))
    wanted = [str(step) for step in parsed[: len(steps["passes"])]]
    if steps["source"] != source or steps["passes"] != wanted:
        return None
    model = load_model(checkpoint / trainer.MODEL)
    told = json.loads((checkpoint / COMPRESSION).read_text(encoding="utf-8"))
    results = [Result(model, **row) for row in told]
    small = replace(subject, model=model, ranges=ranges.load(checkpoint))
    return Compressed(small, read_ledger(checkpoint), results)


def _row(name: str, model: keras.Model, dataset: Dataset | None) -> Row:
    right = None
    if dataset is not None:
        x, y = dataset.arrays("test")
        right = ledger.accuracy(predict_keras(model, x), y) if len(y) else None
    return ledger.of_model(name, model, right)


def _sample(dataset: Dataset | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    if dataset is None:
        return None, None
    x, y = sample(dataset, SAMPLE)
    return x.astype(np.float32), y


def _trainer(
    subject: Subject,
    recipe: Recipe,
    invariants: Sequence[Invariant],
    reporter: Reporter,
) -> Callable[..., keras.Model]:
    from cnnkit.training import imbalance
    from cnnkit.training.augment import augmenter
    from cnnkit.training.augment import by_epoch
    from cnnkit.training.fit import fit
    from cnnkit.training.objective import beyond_logits
    from cnnkit.training.objective import loss_of
    from cnnkit.training.objective import wrap_of

    dataset, options = subject.dataset, recipe.compress
    lesson = _lesson(subject, options)
    special = beyond_logits(recipe)
    if lesson and special:
        reporter.warn(f"fine-tuning learns from the teacher, and not by {special}")
    defaults = {
        **dict(recipe.train),
        # A pass changes all layers, and maybe their names.
        "layer_lr": {},
        "unfreeze": "all",
        "warmup_epochs": 0,
        "loss": None if dataset is None else loss_of(recipe, dataset),
        "sampler": None if dataset is None else imbalance.sampler(recipe, dataset),
        "patience": recipe.guard.patience,
        "reporter": reporter,
    }
    if options.finetune_epochs is not None:
        defaults["epochs"] = options.finetune_epochs
    if options.finetune_lr is not None:
        defaults["lr"] = options.finetune_lr

    def wrap(model: keras.Model, dataset: Dataset, epochs: int) -> Any:
        if lesson:
            return lesson
        try:
            return wrap_of(recipe, dataset, model, epochs)
        except UsageError as error:
            reporter.warn(f"fine-tuning does not learn by {special}: {error}")
            return None

    @cache
    def augmented(dataset: Dataset) -> Augmenter | None:
        made = augmenter(recipe, dataset)
        chosen, why = imbalance.method(recipe, dataset)
        if chosen != "none":
            reporter.note(f"fine-tuning: {why}")
        if made:
            reporter.note(f"fine-tuning: augmented by {made}")
        return made

    def train(model: keras.Model, **changes: Any) -> keras.Model:
        arguments = {**defaults, **changes}
        if dataset is not None and arguments["epochs"]:
            epochs = arguments["epochs"]
            arguments["wrap"] = wrap(model, dataset, epochs)
            arguments["augment"] = by_epoch(augmented(dataset), recipe, epochs, reporter)
            kept = filter(None, (invariant.keeper(model) for invariant in invariants))
            callbacks = [*arguments.pop("callbacks", ()), *kept]
            fit(model, dataset, callbacks=callbacks, **arguments)
        return model

    return train


def _lesson(subject: Subject, options: Compress) -> Callable[[keras.Model], keras.Model] | None:
    """Returns what has `fit` teach a model, or None if it is to learn from the labels alone."""
    if subject.dataset is None or options.teacher == "none":
        return None
    from export.distillation.distill import Config
    from export.distillation.distill import open_teacher
    from export.distillation.distill import taught_by

    source = subject.model if options.teacher == "original" else options.teacher
    config = Config(temperature=options.temperature, weight=options.teacher_weight)
    return taught_by(open_teacher(source, subject.dataset), config)


def _check(before: Any, after: Any, step: str, x: np.ndarray | None) -> None:
    """Refuses a model that no longer does the job of the one it came from."""
    if (before.input_shape, before.output_shape) != (after.input_shape, after.output_shape):
        raise CnnkitError(
            "A pass changed the shape of the input or the output",
            where=step,
            expected=(before.input_shape, before.output_shape),
            received=(after.input_shape, after.output_shape),
        )
    if x is None:
        x = np.random.default_rng(0).uniform(0, 255, (4, *after.input_shape[1:]))
    # The weights too: kernels of ReLU turn NaN into 0.
    if not all(np.isfinite(w).all() for w in [*after.get_weights(), predict_keras(after, x[:16])]):
        raise UsageError(
            "The model gives NaN after a pass",
            where=step,
            todo="prune less, or lower compress.finetune_lr",
        )


def write_run(compressed: Compressed, out: Path, steps: dict[str, Any] | None = None) -> Path:
    """Writes a run folder with the small model; what stood at `out` is replaced.

    Args:
        compressed: What the pipeline left.
        out: The folder.
        steps: For a checkpoint: which passes were done, on which model.

    Raises:
        CnnkitError: If `out` cannot be written.
    """
    from cnnkit.models.saving import save_model
    from cnnkit.training import train
    from cnnkit.training import trainer
    from cnnkit.training.fit import METRICS
    from cnnkit.training.recipe import to_toml

    subject = compressed.subject
    with files.replacing(out) as folder:
        folder.mkdir()
        save_model(subject.model, folder / trainer.MODEL)
        if subject.ranges is not None:
            ranges.save(subject.ranges, folder)
        files.write_text(folder / trainer.CONFIG, to_toml(subject.recipe))
        files.write_json(folder / LEDGER, [row.to_dict() for row in compressed.ledger])
        if steps:
            files.write_json(folder / STEPS, steps)
        keys = ("summary", "protected", "missed")
        done = [{key: getattr(r, key) for key in keys} for r in compressed.results]
        files.write_json(folder / COMPRESSION, done)
        environment = train.environment(subject.recipe.train.seed)
        files.write_json(folder / train.ENVIRONMENT, environment)
        if subject.labels:
            files.write_json(folder / "classes.json", subject.labels)
        if subject.dataset is not None:
            subject.dataset.manifest.save(folder / train.MANIFEST)
        for name in (METRICS, trainer.HEALTH, trainer.AUGMENTED):  # of the training before
            told = subject.origin and subject.origin / name
            if told and told.is_file():
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(told, folder / name)
    return out


def read_ledger(folder: Path | None) -> list[Row]:
    """Returns the ledger that a compressed run has, or no rows."""
    path = folder and folder / LEDGER
    if not path or not path.is_file():
        return []
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
