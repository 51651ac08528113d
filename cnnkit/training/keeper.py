"""What is remembered of a training: its rows, and the weights of its best epoch."""

from __future__ import annotations

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnkit import files
from cnnkit.models.saving import save_model
from cnnkit.training.pipeline import Batches
from cnnkit.training.reporter import Reporter

METRICS = "metrics.csv"
BEST = "checkpoints/best.keras"
COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds")


class Keeper(keras.callbacks.Callback):
    """Keeps rows and best weights, and stops training when it stalls or diverges."""

    def __init__(
        self,
        model: keras.Model,
        batches: Batches,
        rates: keras.optimizers.schedules.LearningRateSchedule,
        patience: int,
        folder: Path | None,
        reporter: Reporter,
    ) -> None:
        super().__init__()
        self.net, self.batches, self.rates, self.patience = model, batches, rates, patience
        self.folder, self.reporter = folder, reporter
        self.rows: list[dict[str, Any]] = []
        self.weights = model.get_weights()
        self.rank = (-math.inf, -math.inf)
        self.best_epoch = 0
        self.diverged = ""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.batches.start(epoch)
        self.begun = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._stop_unless_finite("the loss", logs["loss"])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        weights = self.net.get_weights()
        self._stop_unless_finite("the validation loss", logs.get("val_loss", 0.0))
        if not all(np.isfinite(w).all() for w in weights):
            self._stop_unless_finite("a weight", math.nan)
        if self.diverged:
            return
        row = {
            "epoch": epoch + 1,
            **{key: float(logs[key]) for key in COLUMNS if key in logs},
            "lr": float(self.rates(int(self.model.optimizer.iterations) - 1)),
            "seconds": time.perf_counter() - self.begun,
        }
        self.rows.append(row)
        accuracy, loss = (row.get(f"val_{key}", row[key]) for key in ("accuracy", "loss"))
        if (accuracy, -loss) > self.rank:
            self.rank, self.best_epoch, self.weights = (accuracy, -loss), epoch + 1, weights
            if self.folder:
                save_model(self.net, self.folder / BEST)
        elif epoch + 1 - self.best_epoch >= self.patience:
            self.model.stop_training = True
        if self.folder:
            files.write_text(self.folder / METRICS, _csv(self.rows))
        self.reporter.epoch(row)

    @property
    def kept(self) -> str:
        """Where the kept weights are from, in words."""
        return f"epoch {self.best_epoch}" if self.best_epoch else "the start"

    def _stop_unless_finite(self, what: str, value: float) -> None:
        if not self.diverged and not math.isfinite(value):
            self.diverged = f"{what} is {float(value)}"
            self.model.stop_training = True


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" for k, v in row.items()})
    return text.getvalue()
