"""From the recipe's loss to what `fit` minimises."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import keras
import numpy as np

from cnnkit import losses
from cnnkit.analysis.logits import logits
from cnnkit.errors import UsageError
from cnnkit.training import imbalance
from cnnkit.training.evaluate import evaluate
from cnnkit.training.feature_trainer import FeatureTrainer
from cnnkit.training.feature_trainer import classifier
from cnnkit.training.pipeline import batch_size_for
from cnnkit.training.predict import predict_keras
from cnnkit.types import Tensor

if TYPE_CHECKING:
    from cnnkit.data import Dataset
    from cnnkit.training.recipe import Recipe


def loss_of(recipe: Recipe, dataset: Dataset) -> keras.losses.Loss:
    """Returns what a recipe minimises, as far as logits tell it.

    Raises:
        UsageError: If the costs of mistakes, or the weights of classes, cannot be had.
    """
    chosen, smoothing = recipe.loss, recipe.loss.label_smoothing
    loss: keras.losses.Loss
    if chosen.name in ("crammer_singer", "weston_watkins"):
        loss = losses.Hinge(chosen.name, label_smoothing=smoothing)
    elif chosen.name == "ramp":
        loss = losses.Ramp(chosen.cut, "crammer_singer", label_smoothing=smoothing)
    elif chosen.name == "label_distribution":
        loss = losses.LabelDistribution(chosen.sigma, label_smoothing=smoothing)
    else:  # The large margin is for training alone, see `wrap_of`.
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    if weights := imbalance.weights(recipe, dataset):
        loss = losses.ClassWeighted(weights, loss)
    cost = chosen.cost
    if cost == "none" and imbalance.method(recipe, dataset)[0] == "cost_matrix":
        cost = "counts"
    return loss if cost == "none" else _Sum(loss, losses.CostMatrix(_costs(cost, dataset)))


def beyond_logits(recipe: Recipe) -> str:
    """Returns what a recipe minimises that logits do not tell, as its keys; "" if there is none."""
    chosen, parts = recipe.loss, []
    if chosen.name == "large_margin":
        parts.append(f"loss.name={chosen.name}")
    if chosen.center_weight:
        parts.append(f"loss.center_weight={chosen.center_weight:g}")
    return " and ".join(parts)


def wrap_of(
    recipe: Recipe, dataset: Dataset, model: keras.Model, epochs: int | None = None
) -> Callable[[keras.Model], keras.Model] | None:
    """Returns the `wrap` under which `fit` minimises what logits do not tell, or None.

    Args:
        recipe: What is minimised.
        dataset: What is trained on.
        model: Functional classifier that is trained.
        epochs: Of this training; None takes the recipe's.

    Raises:
        UsageError: If `model` has no Dense layer that makes its logits.
    """
    if not beyond_logits(recipe):
        return None
    chosen = recipe.loss
    features = classifier(logits(model))[1].shape[-1]
    margin = center = None
    if chosen.name == "large_margin":
        margin = losses.LargeMarginSoftmax(chosen.margin, label_smoothing=chosen.label_smoothing)
    if chosen.center_weight:
        center = losses.CenterLoss(model.output_shape[-1], features)
    epochs = recipe.train.epochs if epochs is None else epochs
    n = imbalance.epoch_length(recipe, dataset)
    steps = math.ceil(n / (recipe.train.batch_size or batch_size_for(n))) * epochs
    return lambda net: FeatureTrainer(net, margin, center, chosen.center_weight, steps)


class _Sum(keras.losses.Loss):
    """The sum of two losses."""

    def __init__(self, first: keras.losses.Loss, second: keras.losses.Loss) -> None:
        super().__init__()
        self.first, self.second = first, second

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.first.call(y_true, y_pred) + self.second.call(y_true, y_pred)


def _costs(source: str, dataset: Dataset) -> list[list[float]]:
    """Returns what mistakes cost, a mistake between any two classes 1 on the average."""
    if source == "counts":
        classes = len(dataset.classes)
        counts = np.bincount(dataset.labels("train"), minlength=classes)
        costs = np.array(losses.costs_from_counts(counts.tolist()))
    else:
        costs = np.array(losses.costs_from_confusion(_confusion(source, dataset.classes)))
    mean = costs.sum() / (costs.size - len(costs))
    return (costs / mean).tolist() if mean else costs.tolist()


def _confusion(folder: str, classes: list[str]) -> list[list[int]]:
    """Returns the mistakes of a run on its own validation pictures."""
    from cnnkit.training.train import Run

    run = Run.open(folder)
    dataset, model = run.dataset(), run.model()
    seen = set(dataset.labels("val").tolist())
    if dataset.classes != classes or len(seen) != len(classes):
        raise UsageError(
            "The mistakes of this run say nothing about these classes",
            where=f"loss.cost={folder}",
            expected=f"validation pictures of {', '.join(classes)}",
            received=", ".join(dataset.classes[k] for k in sorted(seen)) or "none",
        )
    return evaluate(partial(predict_keras, model), dataset, "val").confusion
