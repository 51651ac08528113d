"""What is remembered of a training: its rows, its best weights, and where it can go on."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from typing import TypeAlias

import keras
import numpy as np

from cnnkit import files
from cnnkit.models.saving import load_model
from cnnkit.models.saving import save_model
from cnnkit.training import checkpoint
from cnnkit.training.checkpoint import State
from cnnkit.training.reporter import Reporter
from cnnkit.training.unfreezing import Stage

METRICS = "metrics.csv"
BEST = "checkpoints/best.keras"
LAST = "checkpoints/last.keras"
Rates: TypeAlias = Callable[[int], Any]
COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds")
# A last column, only where `fit` ranks epochs by it.
MACRO_F1 = "val_macro_f1"


def judged_by(row: Mapping[str, float]) -> str:
    """Returns the column of `metrics.csv` by which the epochs of a training are ranked first."""
    return next(key for key in (MACRO_F1, "val_accuracy", "accuracy") if key in row)


def rank(row: Mapping[str, float]) -> tuple[float, float]:
    """Returns what the best epoch has the highest of."""
    return row[judged_by(row)], -row.get("val_loss", row["loss"])


class Keeper(keras.callbacks.Callback):
    """Keeps rows, best weights and the last state, and stops when training stalls or diverges.

    Args:
        model: The classifier that is trained, maybe within a wrapper.
        patience: Epochs without a better one after which training ends, all of them in its last
            stage.
        folder: Where everything is kept up to date; None keeps it in memory.
        reporter: Told about every epoch.
        time_limit: Seconds after which training ends with its epoch; None never ends it.
        retries: How often training may go back and go on at half the rate when it diverges.
        writes: False where another process that trains the same network writes into `folder`.

    Attributes:
        rows: Of `metrics.csv`.
        weights: Of the best epoch.
        best_epoch: Counted from 1; 0 before there is one.
        rollbacks: How many times training went back because it diverged.
        diverged: What was not finite, or "".
        batch: The batch of an epoch that was seen last.
        state: Of the end of the last epoch in which all was finite.
    """

    def __init__(
        self,
        model: keras.Model,
        patience: int,
        folder: Path | None,
        reporter: Reporter,
        time_limit: float | None = None,
        retries: int = 0,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.writes = writes
        self.net, self.patience, self.folder, self.reporter = model, patience, folder, reporter
        self.retries = retries
        self.deadline = time.monotonic() + time_limit if time_limit else math.inf
        self.rows: list[dict[str, Any]] = []
        self.weights = model.get_weights()
        self.rank = (-math.inf, -math.inf)
        self.best_epoch, self.rollbacks, self.batch = 0, 0, 0
        self.diverged = ""
        self.state: State | None = None
        self._validated: list[np.ndarray] | None = None

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.rows)

    @property
    def stalled(self) -> bool:
        """Whether there was no better epoch for too long, in the last stage."""
        return self.stage.last and (
            self.epoch - max(self.best_epoch, self.stage.start) >= self.patience
        )

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.deadline

    @property
    def kept(self) -> str:
        """Where the kept weights are from, in words."""
        return f"epoch {self.best_epoch}" if self.best_epoch else "the start"

    def start(self, trained: keras.Model, rates: Rates, stage: Stage) -> None:
        """Remembers the state before the first epoch, or takes the remembered one back.

        Args:
            trained: What is trained, its optimizer built.
            rates: Learning rate of every step of the optimizer.
            stage: In which training goes on, each with an optimizer of its own.
        """
        self.diverged, self.rates, self.stage = "", rates, stage
        if self.state is not None:
            checkpoint.restore(trained, self.state.arrays, anew=self.epoch == stage.start)
        elif self.retries:
            self.state = State(0, checkpoint.capture(trained), self._memory())

    def resume(self, folder: Path) -> None:
        """Remembers what a killed training has left in its folder, if anything.

        Raises:
            UsageError: If the checkpoint is damaged.
        """
        self.state = checkpoint.load(folder)
        if self.state is None:
            return
        memory = self.state.memory
        self.rows, self.rollbacks = memory["rows"], memory["rollbacks"]
        self.best_epoch = memory["best_epoch"]
        if self.best_epoch:
            self.weights = load_model(folder / BEST).get_weights()
        # Killed between the two files, the better weights are those of the epoch that comes again.
        if self.best_epoch and files.sha256(folder / BEST) == memory["best_sha256"]:
            self.rank = (memory["rank"][0], memory["rank"][1])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.begun = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.diverged:
            self.batch = batch
        self._stop_unless_finite("the loss", logs["loss"])

    def on_test_end(self, logs: Any = None) -> None:
        # While averaged weights, if any, are in the place of those that are trained.
        self._validated = self.net.get_weights()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        weights, self._validated = self._validated or self.net.get_weights(), None
        self._stop_unless_finite("the validation loss", logs.get("val_loss", 0.0))
        if not all(np.isfinite(w).all() for w in weights):
            self._stop_unless_finite("a weight", math.nan)
        if self.diverged:
            return
        row = {
            "epoch": epoch + 1,
            **{key: float(logs[key]) for key in (*COLUMNS, MACRO_F1) if key in logs},
            "lr": float(self.rates(int(self.model.optimizer.iterations) - 1)),
            "seconds": time.perf_counter() - self.begun,
        }
        self.rows.append(row)
        if (ranked := rank(row)) > self.rank:
            self.rank, self.best_epoch, self.weights = ranked, epoch + 1, weights
            if self.folder:
                self._save_best(self.folder)
        if self.stalled or self.late:
            self.model.stop_training = True
        if self.folder or self.retries or not self.stage.last:
            self.state = State(epoch + 1, checkpoint.capture(self.model), self._memory())
        if self.folder and self.state and self.writes:
            files.write_text(self.folder / METRICS, _csv(self.rows))
            save_model(self.net, self.folder / LAST)
            checkpoint.save(self.folder, self.state)
        self.reporter.epoch(row)

    def _memory(self) -> dict[str, Any]:
        best = self.folder and self.writes and self.best_epoch and files.sha256(self.folder / BEST)
        return {
            "rows": list(self.rows),
            "rank": list(self.rank) if self.best_epoch else None,
            "best_epoch": self.best_epoch,
            "best_sha256": best or None,
            "rollbacks": self.rollbacks,
        }

    def _save_best(self, folder: Path) -> None:
        # Where several processes hold the weights, they can only be set by all of them.
        trained = self.net.get_weights()
        self.net.set_weights(self.weights)
        if self.writes:
            save_model(self.net, folder / BEST)
        self.net.set_weights(trained)

    def _stop_unless_finite(self, what: str, value: float) -> None:
        if not self.diverged and not math.isfinite(value):
            self.diverged = f"{what} is {float(value)}"
            self.model.stop_training = True


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    columns = [*COLUMNS, *({MACRO_F1} & rows[0].keys())]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" for k, v in row.items()})
    return text.getvalue()
