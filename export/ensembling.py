"""`ensemble`: several runs as one model, chosen on validation pictures and judged on test ones."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from cnnkit import files
from cnnkit import registry
from cnnkit.errors import UsageError
from cnnkit.training.predict import predict_keras
from export import ledger
from export.pipeline import Compressed
from export.pipeline import write_run

if TYPE_CHECKING:
    import keras

    from cnnkit.data import Dataset
    from cnnkit.training.recipe import Recipe
    from cnnkit.training.reporter import Reporter
    from export.subject import Subject

RECORD = "ensemble.json"
# What can be chosen, from the simplest on: of equally good ones the first is taken.
RULES = ("mean", "weighted", "vote", "stack")
METHODS = ("auto", *RULES, "snapshot")


@dataclass(frozen=True)
class Row:
    """How good one model is. All rates are fractions.

    Attributes:
        name: Of a member, or "ensemble".
        weight: Of a member in a mean with weights.
        val_accuracy: On the validation split, out of fold where something was fitted to it; None
            without one.
        test_accuracy: On the test split; None without one.
        interval: 95 % Wilson interval of that.
    """

    name: str
    weight: float | None
    val_accuracy: float | None
    test_accuracy: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Ensembled:
    """Several runs as one.

    Attributes:
        subject: The one model, with its labels and data.
        rule: One of `RULES`: how the members are combined.
        tried: Validation accuracy by rule, of those that were tried.
        rows: One for each member, then one for the ensemble.
        rejected: Part of the test pictures on which no class has a majority of the votes.
        sure: Accuracy of the majority on the others; None if there are none.
        members: The members' models.
    """

    subject: Subject
    rule: str
    tried: dict[str, float]
    rows: list[Row]
    rejected: float | None
    sure: float | None
    members: list[keras.Model]

    def write(self, out: Path) -> Path:
        """Writes a run folder, with the ledger of the members; what stood at `out` is replaced."""
        models = [*self.members, self.subject.model]
        costs = [
            ledger.of_model(row.name, model, row.test_accuracy)
            for row, model in zip(self.rows, models, strict=True)
        ]
        write_run(Compressed(self.subject, costs, []), out)
        told = {key: getattr(self, key) for key in ("rule", "tried", "rejected", "sure")}
        files.write_json(out / RECORD, {**told, "rows": [asdict(row) for row in self.rows]})
        return out


def ensemble(
    runs: Sequence[str | Path | Subject],
    method: str = "auto",
    *,
    cycles: int = 5,
    keep: int = 3,
    sets: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Ensembled:
    """Combines runs that have the same classes, pictures and splits into one model.

    Args:
        runs: Run folders or bundles, or what `open_subject` returns.
        method: "mean" of the probabilities; "weighted" by the validation accuracy; "vote"; "stack"
            fits a logistic regression to the validation split; "auto" takes which of these is the
            best there. "snapshot" trains the network of one run anew, by its own recipe but with
            a cyclic rate, and takes the mean of its last snapshots.
        cycles: Of "snapshot".
        keep: Snapshots that are members.
        sets: Keys of the runs' recipes to change, such as `train.epochs=10`.
        reporter: Told about every step.

    Raises:
        UsageError: If the method is unknown, or the runs do not fit together; the message has the
            difference.
        DataError: If the data cannot be used, or a class has too few pictures to stack.
    """
    from cnnkit.training.reporter import Reporter
    from export.subject import Subject
    from export.subject import open_subject

    registry.known("method", method, METHODS)
    reporter = reporter or Reporter()
    alone = method == "snapshot"
    if not (len(runs) == 1 if alone else len(runs) > 1):
        raise UsageError(
            "Wrong number of runs",
            where=f"method {method}",
            expected="one run" if alone else "two runs or more",
            received=len(runs),
        )
    subjects = [r if isinstance(r, Subject) else open_subject(r, sets=sets) for r in runs]
    names = [str(subject.origin or subject.name) for subject in subjects]
    dataset = _same_data(subjects, names)
    if alone:
        members = _snapshots(subjects[0], dataset, cycles, keep, reporter)
        names = [f"snapshot {k} of {cycles}" for k in range(cycles - len(members) + 1, cycles + 1)]
        method = "mean"
    else:
        members = [subject.model for subject in subjects]
    return _combined(subjects[0], names, members, method, reporter)


def distilled(teacher: Ensembled, name: str, *, reporter: Reporter | None = None) -> Compressed:
    """Returns a network that was taught by the ensemble, with a ledger of the two.

    It is trained as the recipe says; `compress.temperature` and `compress.teacher_weight` are of
    the teacher.

    Args:
        teacher: What `ensemble` returned.
        name: One of `cnnkit.models.NAMES`.
        reporter: Told about every step.

    Raises:
        UsageError: If there is no such network, or it does not fit the pictures.
        DivergedError: If the loss became NaN.
    """
    import keras

    from cnnkit import models
    from cnnkit.training.recipe import Augment
    from cnnkit.training.reporter import Reporter
    from cnnkit.training.train import deployable
    from export.distillation.distill import Config
    from export.distillation.distill import distill

    subject = teacher.subject
    dataset = _dataset(subject, subject.name)
    recipe = subject.recipe
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": name})})
    keras.utils.set_random_seed(recipe.train.seed)
    net = models.build(name, dataset.image_shape, len(dataset.classes), width=recipe.model.width)
    student = deployable(net, *dataset.statistics())
    distill(
        student,
        subject.model,
        dataset,
        config=Config(
            temperature=recipe.compress.temperature, weight=recipe.compress.teacher_weight
        ),
        ask_once=recipe.augment == Augment(),
        patience=recipe.guard.patience,
        **_teaching(recipe, dataset, reporter or Reporter()),
    )
    x, y = dataset.arrays("test")
    right = ledger.accuracy(predict_keras(student, x), y) if len(y) else None
    rows = [
        ledger.of_model("ensemble", subject.model, teacher.rows[-1].test_accuracy),
        ledger.of_model(name, student, right),
    ]
    return Compressed(replace(subject, name=name, model=student, recipe=recipe), rows, [])


def _dataset(subject: Subject, name: str) -> Dataset:
    if subject.dataset is None:
        raise UsageError(
            "Nobody knows the pictures that this was trained on",
            where=name,
            expected="a run folder, as `cnnkit train` leaves it",
        )
    return subject.dataset


def _same_data(subjects: Sequence[Subject], names: Sequence[str]) -> Dataset:
    """Returns the pictures of all runs, after making sure that they are the same.

    Raises:
        UsageError: If they are not; the message has the first difference.
    """
    first, *others = [_dataset(s, name) for s, name in zip(subjects, names, strict=True)]
    for other, name in zip(others, names[1:], strict=True):
        told = {"where": f"{names[0]} and {name}", "todo": "train them on the same data"}
        for what, key in (
            ("classes", "classes"),
            ("picture sizes", "image_shape"),
            ("resize rules", "resize"),
        ):
            a, b = (getattr(dataset, key) for dataset in (first, other))
            if a != b:
                raise UsageError(f"The runs have different {what}", expected=a, received=b, **told)
        mine, theirs = first.manifest, other.manifest
        a, b = ({i.id: i.sha256 for i in m.items} | m.files for m in (mine, theirs))
        if a != b:
            unlike = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
            raise UsageError(
                "The runs have different pictures",
                received=f"{len(unlike)} that only one has, or with other content, such as "
                f"{unlike[0]}",
                **told,
            )
        a, b = ({i.id: i.split for i in m.items} for m in (mine, theirs))
        if a != b:
            unlike = [key for key in a if a[key] != b[key]]
            raise UsageError(
                "The runs have different splits",
                received=f"{len(unlike)} pictures in other ones, such as {unlike[0]} in "
                f"{a[unlike[0]]} and in {b[unlike[0]]}",
                where=told["where"],
                todo="give all runs the same data.split and data.seed, or data that bring their "
                "own train, val and test",
            )
    return first


def _snapshots(
    subject: Subject, dataset: Dataset, cycles: int, keep: int, reporter: Reporter
) -> list[keras.Model]:
    """Returns snapshots of a network like that of a run, from fresh weights on."""
    import keras

    from cnnkit.training.initialize import initialize
    from cnnkit.training.members import snapshot_ensemble
    from cnnkit.training.objective import wrap_of

    recipe = subject.recipe
    if not 1 <= keep <= cycles <= recipe.train.epochs:
        raise UsageError(
            "Wrong number of snapshots",
            expected=f"1 <= keep <= cycles <= {recipe.train.epochs}, which is train.epochs",
            received=f"keep {keep}, cycles {cycles}",
        )
    keras.utils.set_random_seed(recipe.train.seed)
    model = keras.models.clone_model(subject.model)  # with the mean of the pixels, not the weights
    initialize(model, recipe.model.init, dataset.arrays("train")[0], recipe.train.seed)
    reporter.step(f"training for {recipe.train.epochs} epochs in {cycles} cycles")
    return snapshot_ensemble(
        model,
        dataset,
        cycles=cycles,
        keep=keep,
        wrap=wrap_of(recipe, dataset, model),
        **_teaching(recipe, dataset, reporter),
    )


def _teaching(recipe: Recipe, dataset: Dataset, reporter: Reporter) -> dict[str, Any]:
    """Returns the arguments of `fit` that a recipe says."""
    from cnnkit.training.augment import augmenter
    from cnnkit.training.augment import by_epoch
    from cnnkit.training.imbalance import sampler
    from cnnkit.training.objective import loss_of

    return {
        **dict(recipe.train),
        "loss": loss_of(recipe, dataset),
        "sampler": sampler(recipe, dataset),
        "reporter": reporter,
        "augment": by_epoch(augmenter(recipe, dataset), recipe, recipe.train.epochs, reporter),
    }


def _combined(
    subject: Subject,
    names: Sequence[str],
    members: list[keras.Model],
    method: str,
    reporter: Reporter,
) -> Ensembled:
    """Returns the members as one model, by the rule that was asked for or is the best."""
    from cnnkit.ensembles import Stacking
    from cnnkit.ensembles import averaged
    from cnnkit.ensembles import stacked
    from cnnkit.ensembles import voting
    from cnnkit.ensembles.combination import accuracy_weights
    from cnnkit.ensembles.combination import majority

    dataset = _dataset(subject, subject.name)
    reporter.step(f"asking {len(members)} members")
    x, y = dataset.arrays("val")
    known = _answers(members, x)
    alone = [ledger.accuracy(p, y) for p in known]
    if not len(y) and method in ("weighted", "stack"):
        raise UsageError(f"No validation pictures for the method {method}", todo="use mean or vote")
    weights = accuracy_weights([a or 0.0 for a in alone])
    tried = _tried(known, y, weights, method, subject.recipe.train.seed) if len(y) else {}
    rule = max(tried, key=lambda name: tried[name]) if tried else method.replace("auto", "mean")
    if rule == "stack":
        model = stacked(members, Stacking().fit(known, y).layers())
    elif rule == "vote":
        model = voting(members)
    else:
        model = averaged(members, weights if rule == "weighted" else None)

    x, y = dataset.arrays("test")
    seen = _answers(members, x)
    given = weights.tolist() if rule == "weighted" else [None] * len(members)
    columns = zip(names, given, alone, seen, strict=True)
    rows = [_row(name, weight, val, p, y) for name, weight, val, p in columns]
    if tried:
        told = ", ".join(f"{name} {right:.4f}" for name, right in tried.items())
        reporter.note(f"right on validation pictures: {told}")
    rows.append(_row("ensemble", None, tried.get(rule), predict_keras(model, x), y))
    rejected = sure = None
    if rule == "vote" and len(y):
        elected = majority(seen)
        heard = elected >= 0
        rejected = float(1 - heard.mean())
        sure = float((elected == y)[heard].mean()) if heard.any() else None
    whole = replace(subject, name="ensemble", model=model, origin=None, ranges=None)
    return Ensembled(whole, rule, tried, rows, rejected, sure, members)


def _answers(members: Sequence[keras.Model], x: np.ndarray) -> np.ndarray:
    """Returns probabilities `(members, n, classes)`."""
    if not len(x):
        return np.zeros((len(members), 0, members[0].output_shape[-1]))
    return np.stack([predict_keras(member, x) for member in members])


def _tried(
    known: np.ndarray, y: np.ndarray, weights: np.ndarray, method: str, seed: int
) -> dict[str, float]:
    """Returns the validation accuracy of a rule, or of all for "auto"."""
    from cnnkit.ensembles import Stacking
    from cnnkit.ensembles import combination

    rules: dict[str, Callable[[], np.ndarray]] = {
        "mean": lambda: combination.mean(known),
        "weighted": lambda: combination.weighted(known, weights),
        "vote": lambda: combination.plurality(known),
        "stack": lambda: Stacking().out_of_fold(known, y, seed=seed),
    }
    if method != "auto":
        rules = {method: rules[method]}
    elif np.bincount(y, minlength=known.shape[-1]).min() < 2:
        rules.pop("stack")
    return {name: float(np.mean(rule().argmax(-1) == y)) for name, rule in rules.items()}


def _row(name: str, weight: float | None, val: float | None, p: np.ndarray, y: np.ndarray) -> Row:
    from cnnkit.training.evaluate import wilson

    right = ledger.accuracy(p, y)
    interval = None if right is None else wilson(int((p.argmax(1) == y).sum()), len(y))
    return Row(name, weight, val, right, interval)
