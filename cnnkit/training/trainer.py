"""One training: everything that `fit` needs for a recipe, and what is left in the run folder."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from cnnkit import files
from cnnkit.analysis import curves
from cnnkit.analysis.logits import logits
from cnnkit.analysis.monitor import Monitor
from cnnkit.analysis.monitor import diagnosis
from cnnkit.data import sample
from cnnkit.models.saving import save_model
from cnnkit.training import dry_run
from cnnkit.training import imbalance
from cnnkit.training.augment import augmenter
from cnnkit.training.augment import by_epoch
from cnnkit.training.augment import examples
from cnnkit.training.devices import ONE
from cnnkit.training.devices import Mesh
from cnnkit.training.devices import out_of_memory
from cnnkit.training.devices import policy_of
from cnnkit.training.fit import History
from cnnkit.training.fit import fit
from cnnkit.training.joint import joint_of
from cnnkit.training.network import build
from cnnkit.training.network import network
from cnnkit.training.objective import loss_of
from cnnkit.training.objective import wrap_of
from cnnkit.training.recipe import to_toml
from cnnkit.training.reporter import Journal

if TYPE_CHECKING:
    from cnnkit.data import Dataset
    from cnnkit.training.recipe import Recipe
    from cnnkit.training.reporter import Reporter

MODEL = "model.keras"
CONFIG = "config.toml"
CHECKPOINTS = "checkpoints"
EVENTS = "events.jsonl"
AUGMENTED = "plots/augmented.png"
HEALTH = "health.json"
# Training pictures on which the layers are looked at, and how often in a training.
_WATCHED, _LOOKS = 256, 3


class Training:
    """A network that is ready to be trained.

    Attributes:
        recipe: Which this may change: a batch that does not fit the memory is halved.
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        reporter: Reporter,
        mesh: Mesh = ONE,
    ) -> None:
        self.dataset, self.recipe, self.reporter, self.mesh = dataset, recipe, reporter, mesh
        self.model = build(recipe, dataset, reporter)
        self.loss = loss_of(recipe, dataset)
        self.wrap = joint_of(recipe, dataset, self.model, reporter) or wrap_of(
            recipe, dataset, self.model
        )
        self.sampler = imbalance.sampler(recipe, dataset)
        self.augmenter = augmenter(recipe, dataset)
        self.augment = by_epoch(self.augmenter, recipe, recipe.train.epochs, reporter)

    def run(self, folder: Path, *, resume: bool = False) -> None:
        """Trains, and writes the finished model."""
        start = self.model.get_weights()
        if self.recipe.imbalance.method != "none":
            self.reporter.note(imbalance.method(self.recipe, self.dataset)[1])
        if self.augmenter:
            self.reporter.note(f"augmented by {self.augmenter}")
            if self.mesh.chief:
                with files.replacing(folder / AUGMENTED) as partial:
                    examples(self.augmenter, self.dataset).save(partial)
        while True:
            look = self._monitor()
            try:
                with files.explained(folder):  # what TensorBoard writes, too
                    history = self._fit(folder, resume, look)
                break
            except Exception as error:
                batch_size = self.recipe.train.batch_size or 1
                if not out_of_memory(error) or batch_size < 2 or self.mesh.processes > 1:
                    raise
                self.reporter.warn(
                    f"out of memory with {batch_size} pictures a step: from the start, with half"
                )
            self.recipe = self.recipe.model_copy(
                update={
                    "train": self.recipe.train.model_copy(update={"batch_size": batch_size // 2})
                }
            )
            files.write_text(folder / CONFIG, to_toml(self.recipe))
            files.remove(folder / CHECKPOINTS)
            self.model.set_weights(start)
            resume = False
        finished = self._finished()
        if not self.mesh.chief:
            return
        save_model(finished, folder / MODEL)
        health = [{"epoch": epoch, "said": diagnosis(rows)} for epoch, rows in look.history]
        files.write_json(folder / HEALTH, health)
        for finding in curves.diagnosis(history.rows):
            tell = self.reporter.note if finding.name == curves.GOOD else self.reporter.warn
            tell(finding.text)
        self.reporter.note(f"the best of {len(history.rows)} epochs is {history.best_epoch}")

    def _fit(self, folder: Path, resume: bool, look: Monitor) -> History:
        guard, chief = self.recipe.guard, self.mesh.chief
        reporter = Journal(folder / EVENTS, self.reporter) if chief else self.reporter
        boards = _boards(folder) if chief else []
        if guard.dry_run:
            reporter.warn(dry_run.TOLD)
        return fit(
            self.model,
            self.dataset,
            **dict(self.recipe.train),
            loss=self.loss,
            wrap=self.wrap,
            sampler=self.sampler,
            augment=self.augment,
            patience=guard.patience,
            time_limit=guard.time_limit,
            retries=guard.max_rollbacks if guard.on_nan == "rollback" else 0,
            # The layers of a network that others hold too cannot be looked at by one process.
            callbacks=[*([look] if self.mesh.processes == 1 else []), *boards],
            folder=folder,
            resume=resume,
            mesh=self.mesh,
            reporter=reporter,
        )

    def _monitor(self) -> Monitor:
        """Returns what looks at the layers while they are trained."""
        x, y = sample(self.dataset, _WATCHED)
        net = logits(self.model)
        net.compile(loss=self.loss)  # It is not trained, but has the gradients of what is.
        return Monitor(
            x.astype(np.float32),
            np.eye(len(self.dataset.classes), dtype=np.float32)[y],
            every=math.ceil(self.recipe.train.epochs / _LOOKS),
            tell=self.reporter.warn,
            net=net,
            start=False,
        )

    def _finished(self) -> keras.Model:
        """Returns the trained model, computing in float32."""
        if policy_of(self.recipe.device.mixed_precision) == "float32":
            return self.model
        plain = network(self.recipe, self.dataset, "float32")
        plain.set_weights(self.model.get_weights())
        return plain


def _boards(folder: Path) -> list[keras.callbacks.Callback]:
    """Returns what writes for TensorBoard, if that is installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return []
    return [keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)]
