"""From the recipe to what is done about classes with few pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cnnkit.data import sampling
from cnnkit.errors import UsageError
from cnnkit.losses import class_weights
from cnnkit.training import dry_run
from cnnkit.training.pipeline import batch_size_for
from cnnkit.training.pipeline import order

if TYPE_CHECKING:
    from cnnkit.data import Dataset
    from cnnkit.training.recipe import Recipe

# `auto`: up to this ratio of the largest class to the smallest, nothing is done. Beyond, classes
# take turns: nothing was better in `benchmarks/imbalance.md`, and epochs are as long as before.
MUCH_THE_SAME = 3
WEIGHING = ("weights", "effective_number")


def method(recipe: Recipe, dataset: Dataset) -> tuple[str, str]:
    """Returns the method that a recipe means for a dataset, and why, in words."""
    chosen, counts = recipe.imbalance.method, _counts(dataset)
    most, least = int(counts.max()), int(counts[counts > 0].min())
    unequal = f"the largest class has {most} training pictures, the smallest {least}"
    if chosen != "auto":
        return chosen, f"imbalance.method={chosen}; {unequal}"
    if recipe.loss.cost != "none":
        return "none", f"loss.cost={recipe.loss.cost} says what mistakes cost; {unequal}"
    if not uneven(dataset.labels("train")):
        return "none", f"{unequal}: much the same"
    return "class_balanced", f"{unequal}: classes take turns, and an epoch is as long as before"


def uneven(labels: np.ndarray) -> bool:
    """Returns whether the largest class has more than three times the pictures of the smallest."""
    counts = np.bincount(labels)
    return bool(counts.max() > MUCH_THE_SAME * counts[counts > 0].min())


def sampler(recipe: Recipe, dataset: Dataset) -> Callable[[int], np.ndarray] | None:
    """Returns which training pictures an epoch, counted from 0, sees in what order.

    None leaves them as they are: each of them once. All epochs are equally long, but not all as
    long as there are pictures.
    """
    labels, seed = dataset.labels("train"), recipe.train.seed
    choose = sampling.SAMPLERS.get(method(recipe, dataset)[0])
    if recipe.guard.dry_run:
        n = dry_run.BATCHES * (recipe.train.batch_size or batch_size_for(len(labels)))
        if choose is None:
            return lambda epoch: order(seed, epoch, len(labels))[:n]
        return lambda epoch: choose(labels, seed, epoch)[:n]
    return choose and (lambda epoch: choose(labels, seed, epoch))


def epoch_length(recipe: Recipe, dataset: Dataset) -> int:
    """Returns how many pictures an epoch sees."""
    chosen = sampler(recipe, dataset)
    return len(dataset.labels("train")) if chosen is None else len(chosen(0))


def weights(recipe: Recipe, dataset: Dataset) -> list[float] | None:
    """Returns by what each class counts in the loss, 1 on the average training picture, or None.

    Raises:
        UsageError: If a class has no training picture, or the loss cannot be weighed.
    """
    chosen = method(recipe, dataset)[0]
    if chosen not in WEIGHING:
        return None
    counts = _counts(dataset)
    if recipe.loss.name == "large_margin":
        raise UsageError(
            "The large margin is not weighed",
            where=f"imbalance.method={chosen}",
            todo="choose how often classes are seen, such as imbalance.method=class_balanced",
        )
    if not counts.all():
        raise UsageError(
            "A class without training pictures has no weight",
            where=f"imbalance.method={chosen}",
            received=", ".join(dataset.classes[k] for k in np.flatnonzero(counts == 0)),
        )
    return class_weights(counts.tolist(), recipe.imbalance.beta if chosen != "weights" else 1.0)


def _counts(dataset: Dataset) -> np.ndarray:
    """Returns the number of training pictures of each class."""
    return np.bincount(dataset.labels("train"), minlength=len(dataset.classes))
