"""`fit`: trains a classifier and leaves it with the weights of its best epoch."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import keras

from cnnkit import registry
from cnnkit.analysis.logits import logits
from cnnkit.errors import DivergedError
from cnnkit.models.saving import save_model
from cnnkit.training.keeper import BEST
from cnnkit.training.keeper import METRICS as METRICS
from cnnkit.training.keeper import Keeper
from cnnkit.training.momentum import RampedSGD
from cnnkit.training.pipeline import Batches
from cnnkit.training.reporter import Reporter
from cnnkit.training.schedules import learning_rates

if TYPE_CHECKING:
    from cnnkit.data import Dataset

# With the constants of Wei 2017, section 11.2.4, where Keras has others.
OPTIMIZERS = {
    "adadelta": partial(keras.optimizers.Adadelta, rho=0.95, epsilon=1e-6),
    "adagrad": partial(keras.optimizers.Adagrad, initial_accumulator_value=0.0, epsilon=1e-6),
    "adam": partial(keras.optimizers.Adam, epsilon=1e-8),
    "adamw": keras.optimizers.AdamW,
    "momentum": partial(keras.optimizers.SGD, momentum=0.9),
    "momentum-ramp": RampedSGD,
    "plain-sgd": keras.optimizers.SGD,
    "rmsprop": partial(keras.optimizers.RMSprop, rho=0.9, epsilon=1e-6),
    "sgd": partial(keras.optimizers.SGD, momentum=0.9, nesterov=True),
}


@dataclass(frozen=True)
class History:
    """What happened.

    Attributes:
        rows: One for each epoch: the columns of `metrics.csv`.
        best_epoch: The best epoch, counted from 1, whose weights the model has unless it was
            to keep its last ones.
    """

    rows: list[dict[str, Any]]
    best_epoch: int


def fit(  # noqa: PLR0913
    model: keras.Model,
    dataset: Dataset,
    *,
    epochs: int,
    batch_size: int = 32,
    lr: float = 1e-3,
    optimizer: str = "adamw",
    schedule: str = "cosine",
    warmup_epochs: int = 0,
    weight_decay: float = 0.0,
    label_smoothing: float = 0.0,
    loss: keras.losses.Loss | None = None,
    patience: int | None = None,
    seed: int = 0,
    deterministic: bool = False,
    keep_best: bool = True,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    wrap: Callable[[keras.Model], keras.Model] | None = None,
    folder: Path | None = None,
    reporter: Reporter | None = None,
) -> History:
    """Trains `model` in place and leaves it with the weights of its best epoch.

    Best is the highest accuracy on the validation split, then the lowest loss; without that
    split, on the training split. The model is not compiled by this.

    Args:
        model: Functional classifier of raw pixels, ending in logits or probabilities.
        dataset: Its splits `train` and `val` are used.
        epochs: At most.
        batch_size: Pictures a step.
        lr: Learning rate at its highest.
        optimizer: One of `OPTIMIZERS`. Decay is decoupled in all; `sgd` has Nesterov momentum 0.9;
            the momentum of `momentum-ramp` rises from 0.5 to 0.9 over the training.
        schedule: One of `schedules.SCHEDULES`, such as `cosine` or `step:every=10,factor=0.1`.
        warmup_epochs: Epochs in which the rate rises from zero.
        weight_decay: Fraction of each kernel taken away a step, times the rate.
        label_smoothing: Part of each label that is spread over all classes, in [0, 1).
        loss: Of logits and one-hot labels; None is the cross-entropy with `label_smoothing`.
        patience: Epochs without a better one after which training ends; None never ends it.
        seed: Of the order of the pictures.
        deterministic: Only operations that give the same bits each time, from now on.
        keep_best: False leaves the weights of the last epoch: for callbacks that change the
            network on the way, so that an earlier epoch is not what was asked for.
        callbacks: See the network at every step, before its weights are remembered. Their
            `model` shares its layers with `model`.
        wrap: Given `logits(model)`, returns what is trained in its place and trains its weights,
            such as a distiller around it.
        folder: Where `metrics.csv` and `checkpoints/best.keras` are kept up to date.
        reporter: Told about every epoch.

    Raises:
        DivergedError: If loss or weights become NaN or infinite. The model then has its last
            good weights, and so has the checkpoint.
        UsageError: If the optimizer or the schedule is unknown.
    """
    if deterministic:
        _only_deterministic_operations()
    classes = model.output_shape[-1]
    train = Batches(*dataset.arrays("train"), classes, batch_size, seed)
    val_x, val_y = dataset.arrays("val")
    val = Batches(val_x, val_y, classes, 4 * batch_size) if len(val_y) else None
    rates = learning_rates(lr, schedule, epochs, len(train), warmup_epochs)
    trained = wrap(logits(model)) if wrap else logits(model)
    trained.compile(
        optimizer=_optimizer(optimizer, rates, weight_decay, epochs * len(train)),
        loss=loss
        or keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=_jit(),
    )
    keeper = Keeper(model, train, rates, patience or epochs, folder, reporter or Reporter())
    trained.fit(
        train,
        validation_data=val,
        epochs=epochs,
        shuffle=False,  # `Batches` has its own order
        verbose=0,
        callbacks=[*callbacks, keeper],
    )
    if keep_best or keeper.diverged:
        model.set_weights(keeper.weights)
    if keeper.diverged:
        if folder:
            save_model(model, folder / BEST)
        raise DivergedError(
            f"Training diverged in epoch {len(keeper.rows) + 1}",
            received=keeper.diverged,
            todo=f"use a lower learning rate, such as {min(lr / 10, 1e-3):g}, or look for bad "
            f"pictures; the weights of {keeper.kept} are kept"
            + (f" in {folder / BEST}" if folder else ""),
        )
    return History(keeper.rows, keeper.best_epoch)


def _optimizer(
    name: str, rates: Any, weight_decay: float, steps: int
) -> keras.optimizers.Optimizer:
    make = OPTIMIZERS[registry.known("optimizer", name, OPTIMIZERS)]
    ramp = {"steps": steps} if make is RampedSGD else {}
    optimizer = make(learning_rate=rates, weight_decay=weight_decay, **ramp)
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return optimizer


def _jit() -> str | bool:
    # XLA halves the speed of small nets on a CPU with TensorFlow; the other backends need it.
    slow = keras.backend.backend() == "tensorflow" and not keras.distribution.list_devices("gpu")
    return False if slow else "auto"


def _only_deterministic_operations() -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # Keras has no switch of its own for this.

        tf.config.experimental.enable_op_determinism()
