"""`ablate`: which trick pays on somebody's own pictures, over several seeds."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnkit import files
from cnnkit import registry
from cnnkit.data import Manifest
from cnnkit.data import image_shape
from cnnkit.errors import UsageError
from cnnkit.training.augment import preset
from cnnkit.training.keeper import judged_by
from cnnkit.training.recipe import Recipe
from cnnkit.training.recipe import Resolved
from cnnkit.training.recipe import changed
from cnnkit.training.recipe import flat
from cnnkit.training.recipe import to_dict
from cnnkit.training.reporter import Reporter
from cnnkit.training.significance import Difference
from cnnkit.training.significance import paired
from cnnkit.training.train import check
from cnnkit.training.train import train

ROWS = "ablation.json"
BASE = "as it is"
# Name -> the keys of a recipe that has the trick, and those of one that has not.
TRICKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "batch_of_half": ({"train.batch_size": 16}, {"train.batch_size": "auto"}),
    "class_balanced": ({"imbalance.method": "class_balanced"}, {"imbalance.method": "none"}),
    "class_weights": ({"imbalance.method": "weights"}, {"imbalance.method": "none"}),
    "clip_norm": ({"train.clip_norm": 1.0}, {"train.clip_norm": "none"}),
    "crops": ({"augment.preset": "light"}, {"augment.preset": "none"}),
    "cutmix": ({"augment.cutmix": 1.0}, {"augment.cutmix": 0.0}),
    "ema": ({"train.ema": 0.99}, {"train.ema": 0.0}),
    "fancy_pca": ({"augment.fancy_pca": 0.1}, {"augment.fancy_pca": 0.0}),
    "flips": ({"augment.horizontal_flip": "on"}, {"augment.horizontal_flip": "off"}),
    "label_shuffling": ({"imbalance.method": "label_shuffling"}, {"imbalance.method": "none"}),
    "label_smoothing": ({"loss.label_smoothing": 0.1}, {"loss.label_smoothing": 0.0}),
    "mixup": ({"augment.mixup": 0.2}, {"augment.mixup": 0.0}),
    "turns_and_colours": ({"augment.preset": "medium"}, {"augment.preset": "none"}),
    "warmup": ({"train.warmup_epochs": 3}, {"train.warmup_epochs": 0}),
    "weight_decay": ({"train.weight_decay": 5e-2}, {"train.weight_decay": 0.0}),
}


@dataclass(frozen=True)
class Row:
    """One trick against the recipe as it is.

    Attributes:
        trick: Its name.
        change: "with" or "without" it.
        seeds: How many pairs there are.
        metric: What the runs are judged by, as training judges its epochs: `val_accuracy`, or of
            uneven classes `val_macro_f1`.
        score: By how much its best value differs.
        seconds: By how much the seconds of an epoch differ, as a fraction.
    """

    trick: str
    change: str
    seeds: int
    metric: str
    score: Difference
    seconds: Difference


def ablate(
    recipe: Resolved,
    out: str | Path,
    tricks: Sequence[str] = (),
    *,
    seeds: int = 3,
    reporter: Reporter | None = None,
) -> list[Row]:
    """Trains with and without each trick, one change at a time, and leaves `ablation.json`.

    A recipe that has a trick is trained without it; one that has not, with it. Tricks that do not
    fit the pictures, such as colours of grey ones, are left out. All share the split of the
    recipe; the seeds are those of weights, order and augmentation. What is in `out` already is not
    trained again.

    Args:
        recipe: What is trained as it is.
        out: Folder of the results.
        tricks: Of `TRICKS`; none means all.
        seeds: How often each is trained, at least 2.
        reporter: Told about every training.

    Raises:
        UsageError: If a trick is unknown, or `out` has results of another recipe.
    """
    out, reporter = Path(out), reporter or Reporter()
    for trick in tricks:
        registry.known("trick", trick, TRICKS)
    if seeds < 2:
        raise UsageError("Too few seeds", expected="2 or more", received=seeds)
    chosen = list(tricks) or list(TRICKS)
    known = _Known(out, recipe.recipe)
    manifest = check(recipe.recipe, reporter)
    base = flat(to_dict(recipe.recipe))
    shape = image_shape(manifest, recipe.recipe.data.image_size, recipe.recipe.data.channels)
    base["augment.preset"] = preset(recipe.recipe, shape)[0]
    arms: dict[str, tuple[str, dict[str, Any]]] = {BASE: ("", {})}
    for trick in chosen:
        having, lacking = TRICKS[trick]
        has = all(_has(base[key], value, lacking[key]) for key, value in having.items())
        arms[trick] = ("without", lacking) if has else ("with", having)
    unfit: set[str] = set()
    for seed in range(seeds):
        for name, (change, keys) in arms.items():
            if known.has(name, seed) or name in unfit:
                continue
            reporter.step(f"seed {seed}: {change} {name}".replace(":  ", ": "))
            try:
                known.add(name, seed, _measure(manifest, recipe.recipe, keys, seed, out / "run"))
            except UsageError as error:
                if name == BASE:
                    raise
                reporter.warn(f"{name} is left out: {error}")
                unfit.add(name)
    files.remove(out / "run")
    return [_row(known, name, arms[name][0], seeds) for name in chosen if name not in unfit]


def _has(base: Any, having: Any, lacking: Any) -> bool:
    """Returns whether a recipe's value is that of a trick, or another strength of it."""
    return bool(base == having or (isinstance(base, int | float) and base != lacking))


def _measure(
    manifest: Manifest, recipe: Recipe, keys: dict[str, Any], seed: int, folder: Path
) -> dict[str, Any]:
    begun = time.perf_counter()
    settings = {**keys, "train.seed": seed}
    run = train(manifest, changed(recipe, settings), folder, overwrite=True)
    seconds = (time.perf_counter() - begun) / len(run.metrics)
    metric = judged_by(run.best)
    return {"metric": metric, "score": run.best[metric], "seconds": seconds}


def _row(known: _Known, trick: str, change: str, seeds: int) -> Row:
    pairs = [(known.rows[f"{trick} {s}"], known.rows[f"{BASE} {s}"]) for s in range(seeds)]
    return Row(
        trick,
        change,
        seeds,
        pairs[0][0]["metric"],
        paired([mine["score"] - base["score"] for mine, base in pairs]),
        paired([mine["seconds"] / base["seconds"] - 1 for mine, base in pairs]),
    )


class _Known:
    """The results in a folder, which grow one by one."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        self.path, self.recipe = out / ROWS, to_dict(recipe)
        self.rows: dict[str, dict[str, Any]] = {}
        if not self.path.is_file():
            files.require_free(out, ROWS)
            return
        told = json.loads(self.path.read_text(encoding="utf-8"))
        if told["recipe"] != json.loads(json.dumps(self.recipe)):
            raise UsageError(
                "There are results of another recipe", where=out, todo="choose another --out"
            )
        self.rows = told["rows"]

    def has(self, name: str, seed: int) -> bool:
        return f"{name} {seed}" in self.rows

    def add(self, name: str, seed: int, row: dict[str, Any]) -> None:
        self.rows[f"{name} {seed}"] = row
        files.write_json(self.path, {"recipe": self.recipe, "rows": self.rows})
