"""`compare`: how runs differ, in what was asked of them and in what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cnnkit.analysis import macs
from cnnkit.errors import UsageError
from cnnkit.training.evaluate import Scores
from cnnkit.training.evaluate import evaluate
from cnnkit.training.predict import predict_keras
from cnnkit.training.recipe import flat
from cnnkit.training.recipe import to_dict
from cnnkit.training.significance import Difference
from cnnkit.training.significance import bootstrap
from cnnkit.training.significance import mcnemar
from cnnkit.training.train import Run


@dataclass(frozen=True)
class Compared:
    """One run beside the first one.

    Attributes:
        run: Its folder.
        params: Its model's weights.
        macs: Its model's multiply-adds for one picture.
        scores: On the test split.
        difference: Of its accuracy to the first run's; None of the first run itself.
        p: By McNemar's test; None of the first run itself.
    """

    run: str
    params: int
    macs: int
    scores: Scores
    difference: Difference | None
    p: float | None


@dataclass(frozen=True)
class Comparison:
    """Several runs.

    Attributes:
        rows: In the order of the runs.
        settings: By recipe key, the value of each run, where they differ.
    """

    rows: list[Compared]
    settings: dict[str, list[Any]]


def compare(runs: Sequence[Run]) -> Comparison:
    """Judges runs on the test pictures that they share.

    Raises:
        UsageError: If there are fewer than two, or their test pictures or classes differ.
    """
    if len(runs) < 2:
        raise UsageError("Nothing to compare with", expected="two run folders or more")
    first = _test(runs[0])
    for run in runs[1:]:
        if _test(run) != first:
            raise UsageError(
                "These runs have other test pictures",
                where=run.folder,
                expected=f"those of {runs[0].folder}",
                todo="train them on the same data with the same data.split and data.seed",
            )
    rows: list[Compared] = []
    base = np.zeros(0, bool)
    for run in runs:
        model, dataset = run.model(), run.dataset()
        x, y = dataset.arrays("test")
        p = predict_keras(model, x)
        right = p.argmax(1) == y
        base = right if not rows else base
        rows.append(
            Compared(
                str(run.folder),
                macs.params(model),
                macs.total(model),
                evaluate(partial(_known, p), dataset),
                bootstrap(base, right) if rows else None,
                mcnemar(base, right) if rows else None,
            )
        )
    recipes = [flat(to_dict(run.recipe)) for run in runs]
    keys = sorted({key for recipe in recipes for key in recipe})
    values = {key: [recipe.get(key) for recipe in recipes] for key in keys}
    return Comparison(rows, {key: found for key, found in values.items() if _differ(found)})


def _known(p: np.ndarray, x: np.ndarray) -> np.ndarray:
    return p


def _differ(values: list[Any]) -> bool:
    return any(value != values[0] for value in values)


def _test(run: Run) -> tuple[list[str], dict[str, str], list[tuple[str, str, int]]]:
    """Returns what the test pictures of a run are."""
    manifest = run.manifest
    pictures = [(item.id, item.sha256, item.label) for item in manifest.select("test")]
    return manifest.classes, manifest.files, pictures
