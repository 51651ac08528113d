"""`lr_find`: the learning-rate range test, on a network that is thrown away after it."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnkit import checks
from cnnkit import files
from cnnkit.errors import DivergedError
from cnnkit.errors import UsageError
from cnnkit.training import unfreezing
from cnnkit.training.devices import devices
from cnnkit.training.fit import fit
from cnnkit.training.pipeline import Sampler
from cnnkit.training.pipeline import batch_size_for
from cnnkit.training.pipeline import order
from cnnkit.training.recipe import Recipe
from cnnkit.training.recipe import Resolved
from cnnkit.training.reporter import Reporter
from cnnkit.training.train import check
from cnnkit.training.train import chosen
from cnnkit.training.trainer import Training

# Of the running mean of the losses; and by how many times the lowest the test ends.
_SMOOTH, _ENOUGH = 0.9, 4.0


@dataclass(frozen=True)
class Sweep:
    """What the loss did while the rate rose.

    Attributes:
        rates: Of each step.
        losses: Of each step's batch.
        suggestion: The rate at which the loss fell most steeply, which is a good highest rate.
        highest: The rate of the lowest loss: above it training soon diverges.
    """

    rates: list[float]
    losses: list[float]
    suggestion: float
    highest: float

    def save(self, folder: Path) -> None:
        """Writes `lr-find.csv` and `lr-find.png`."""
        from matplotlib.figure import Figure

        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("lr", "loss"))
        writer.writerows(zip(self.rates, self.losses, strict=True))
        files.write_text(folder / "lr-find.csv", text.getvalue())
        figure = Figure((6, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, color="0.8", label="of the batch")
        axes.plot(self.rates, smoothed(self.losses), label="running mean")
        axes.axvline(self.suggestion, color="tab:green", label=f"suggested: {self.suggestion:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.set_ylim(top=np.nanmax(smoothed(self.losses)[: 1 + len(self.losses) // 2]) * 1.5)
        axes.legend()
        with files.replacing(folder / "lr-find.png") as partial:
            figure.savefig(partial, dpi=100)


def lr_find(
    recipe: Recipe,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    reporter: Reporter | None = None,
) -> Sweep:
    """Raises the rate by the same factor at every step until the loss explodes.

    Args:
        recipe: Data and every other choice; its rate and schedule play no part.
        low: Rate of the first step, positive.
        high: Rate of the last step, above `low`.
        steps: At least 20.
        reporter: Told about every step.

    Raises:
        UsageError: If the loss never falls.
        ValueError: If an argument is outside its interval.

    Reference:
        Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3,
        https://arxiv.org/abs/1506.01186. Differs: the rate rises by factors, not in a line, and
        the suggestion is read off the steepest fall of a running mean.
    """
    checks.in_range("lr_find", "low", low, 0, math.inf, closed="neither")
    checks.integer("lr_find", "steps", steps, 20)
    if not low < high < math.inf:
        raise UsageError("Wrong range of rates", expected="low < high", received=f"{low}, {high}")
    reporter = reporter or Reporter()
    dataset, resolved = chosen(check(recipe, reporter), Resolved.of(recipe), reporter)
    recipe, n = resolved.recipe, len(dataset.labels("train"))
    batch_size = recipe.train.batch_size or batch_size_for(n)
    watch = _Watch(steps)
    options: dict[str, Any] = {
        **dict(recipe.train),
        "epochs": 1,
        "warmup_epochs": 0,
        "lr": high,
        "schedule": f"rising:start={low / high!r}",
        "ema": 0.0,
        "unfreeze": unfreezing.final(recipe.train.unfreeze),
    }
    with devices(recipe.device.strategy), contextlib.suppress(DivergedError):
        training = Training(dataset, recipe, reporter)
        fit(
            training.model,
            dataset,
            **options,
            loss=training.loss,
            wrap=training.wrap,
            sampler=_some(n, recipe.train.seed, steps * batch_size),
            augment=training.augment,
            keep_best=False,
            callbacks=[watch],
        )
    return _read(watch)


def smoothed(losses: list[float]) -> np.ndarray:
    """Returns the running mean, without the pull of its start."""
    found, mean = [], 0.0
    for k, loss in enumerate(losses, 1):
        mean = _SMOOTH * mean + (1 - _SMOOTH) * loss
        found.append(mean / (1 - _SMOOTH**k))
    return np.array(found)


def _some(n: int, seed: int, number: int) -> Sampler:
    """Returns a sampler of as many pictures, in as many rounds over all of them as it takes."""
    rounds = range(-(-number // n))
    return lambda epoch: np.concatenate([order(seed, r, n) for r in rounds])[:number]


class _Watch(keras.callbacks.Callback):
    """Keeps rate and loss of every step, and ends when the loss explodes."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._mean = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.rates.append(float(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Keras gives the mean of the epoch so far.
        mean = float(logs["loss"])
        self.losses.append((batch + 1) * mean - batch * self._mean)
        self._mean = mean
        means = smoothed(self.losses)
        if batch >= 10 and not means[-1] < _ENOUGH * means.min():
            self.model.stop_training = True


def _read(watch: _Watch) -> Sweep:
    """Reads the suggestion off the curve."""
    finite = [k for k, loss in enumerate(watch.losses) if math.isfinite(loss)]
    losses = [watch.losses[k] for k in finite]
    rates = [watch.rates[k] for k in finite]
    means = smoothed(losses)
    # The first means are of a few batches only.
    begin = min(5, max(0, len(means) - 2))
    lowest = begin + int(means[begin:].argmin()) if len(means) else 0
    slopes = np.gradient(means, np.log(rates))[begin:lowest] if lowest > begin + 1 else np.zeros(0)
    if not len(slopes) or slopes.min() >= 0:
        raise UsageError(
            "The loss never falls, at no learning rate",
            received=f"{losses[0]:.4g} at {rates[0]:.2g}"
            if losses
            else "a loss that is not finite",
            todo="look at the data, the initialization and the loss of this recipe",
        )
    return Sweep(rates, losses, rates[begin + int(slopes.argmin())], rates[lowest])
