"""`fit`: trains a classifier and leaves it with the weights of its best epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from cnnkit import files
from cnnkit import registry
from cnnkit.analysis.logits import logits
from cnnkit.errors import DivergedError
from cnnkit.errors import UsageError
from cnnkit.models.saving import save_model
from cnnkit.onednn import unit_strides
from cnnkit.training import imbalance
from cnnkit.training import layer_rates
from cnnkit.training import unfreezing
from cnnkit.training.devices import ONE
from cnnkit.training.devices import Mesh
from cnnkit.training.keeper import BEST
from cnnkit.training.keeper import METRICS as METRICS
from cnnkit.training.keeper import Keeper
from cnnkit.training.momentum import RampedSGD
from cnnkit.training.pipeline import Augmentation
from cnnkit.training.pipeline import Batches
from cnnkit.training.pipeline import Sampler
from cnnkit.training.pipeline import batch_size_for
from cnnkit.training.reporter import Reporter
from cnnkit.training.schedules import learning_rates
from cnnkit.types import Tensor

if TYPE_CHECKING:
    from cnnkit.data import Dataset

# Highest rates that are taken if none is given: those of Wei 2017, sections 11.2.2 and 11.2.4, and
# three times Adam's for AdamW, whose decay holds the weights.
RATES = {
    "adadelta": 1.0,
    "adagrad": 0.01,
    "adam": 1e-3,
    "adamw": 3e-3,
    "momentum": 0.01,
    "momentum-ramp": 0.01,
    "plain-sgd": 0.1,
    "rmsprop": 1e-3,
    "sgd": 0.01,
}
FAILURE = "failures/divergence.json"
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
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: str = "adamw",
    schedule: str = "cosine",
    warmup_epochs: int = 0,
    weight_decay: float = 0.0,
    label_smoothing: float = 0.0,
    loss: keras.losses.Loss | None = None,
    ema: float = 0.0,
    clip_norm: float | None = None,
    layer_lr: Mapping[str, float] | None = None,
    unfreeze: str = "all",
    patience: int | None = None,
    time_limit: float | None = None,
    retries: int = 0,
    seed: int = 0,
    deterministic: bool = False,
    keep_best: bool = True,
    sampler: Sampler | None = None,
    augment: Augmentation | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    wrap: Callable[[keras.Model], keras.Model] | None = None,
    folder: Path | None = None,
    resume: bool = False,
    mesh: Mesh = ONE,
    reporter: Reporter | None = None,
) -> History:
    """Trains `model` in place and leaves it with the weights of its best epoch.

    Best is the highest accuracy on the validation split, then the lowest loss; without that
    split, on the training split. Where the largest training class has more than three times the
    pictures of the smallest, macro-F1 on the validation split stands in the place of accuracy; it
    is then a column of `metrics.csv`, in which a class that validation lacks counts as 0. The model
    is not compiled by this.

    Args:
        model: Functional classifier of raw pixels, ending in logits or probabilities.
        dataset: Its splits `train` and `val` are used.
        epochs: At most.
        batch_size: Pictures a step; None takes `batch_size_for` of the training split.
        lr: Learning rate at its highest; None takes that of `RATES`.
        optimizer: One of `OPTIMIZERS`. Decay is decoupled in all; `sgd` has Nesterov momentum 0.9;
            the momentum of `momentum-ramp` rises from 0.5 to 0.9 over the training.
        schedule: One of `schedules.SCHEDULES`, such as `cosine` or `step:every=10,factor=0.1`.
        warmup_epochs: Epochs in which the rate rises from zero.
        weight_decay: Fraction of each kernel taken away a step, times the rate.
        label_smoothing: Part of each label that is spread over all classes, in [0, 1).
        loss: Of logits and one-hot labels; None is the cross-entropy with `label_smoothing`.
        ema: Momentum of a running average of the weights, in [0, 1), which is what is validated and
            kept; 0 keeps the weights themselves.
        clip_norm: Largest norm of all gradients together, positive; None leaves them.
        layer_lr: Regular expression -> what the rate is multiplied by for the weights whose whole
            path it matches, such as `conv_1/.*`; 0 freezes them, and with them the averages of a
            batch normalization. The paths are those of `layer_rates.weights`.
        unfreeze: Which layers are trained: one of `unfreezing.PLANS`, such as `head`, or
            `stages:head=3,deep=6` for the last one first and then more. Batch normalization in
            frozen layers computes as in inference. Each stage has a fresh optimizer; the schedule
            goes on.
        patience: Epochs without a better one after which training ends, in the last stage of
            `unfreeze`; None never ends it.
        time_limit: Seconds after which training ends with its epoch; None never ends it.
        retries: How often training goes back to its last finite epoch, and on at half the rate,
            when it diverges.
        seed: Of the order of the pictures and of their augmentation.
        deterministic: Only operations that give the same bits each time, from now on.
        keep_best: False leaves the weights of the last epoch: for callbacks that change the
            network on the way, so that an earlier epoch is not what was asked for.
        sampler: Chooses the training pictures of an epoch; None takes each once.
        augment: Says what is done to the training pictures of an epoch; None leaves them.
        callbacks: See the network at every step, before its weights are remembered. Their
            `model` shares its layers with `model`.
        wrap: Given `logits(model)`, returns what is trained in its place and trains its weights,
            such as a distiller around it.
        folder: Where `metrics.csv` and `checkpoints` are kept up to date.
        resume: Goes on from the last epoch in `folder`, to the very same weights as without the
            interruption, given the same arguments and a start of the same seed.
        mesh: What it is spread over, from `devices`: only its chief writes into `folder`.
        reporter: Told about every epoch.

    Raises:
        DivergedError: If loss or weights become NaN or infinite more than `retries` times. The
            model then has its best weights, and so has the checkpoint; the pictures of the last
            batch are named in `failures/`.
        UsageError: If the optimizer or the schedule is unknown, or the checkpoint is of another
            network.
    """
    if deterministic:
        _only_deterministic_operations()
    classes, reporter = model.output_shape[-1], reporter or Reporter()
    layer_lr = layer_lr or {}
    x, y = dataset.arrays("train")
    lr = lr or RATES[registry.known("optimizer", optimizer, RATES)]
    batch_size = batch_size or batch_size_for(len(y))
    train = Batches(x, y, classes, batch_size, seed, sampler, augment, mesh)
    val_x, val_y = dataset.arrays("val")
    val = Batches(val_x, val_y, classes, 4 * batch_size, mesh=mesh) if len(val_y) else None
    trained = wrap(logits(model)) if wrap else logits(model)
    keeper = Keeper(
        model, patience or epochs, folder, reporter, time_limit, retries, writes=mesh.chief
    )
    if resume and folder:
        keeper.resume(folder)
    # The order matters: the keeper looks while averages are in the place of the weights.
    watching = [*callbacks, keeper, *([keras.callbacks.SwapEMAWeights()] if ema else [])]
    options = {"use_ema": True, "ema_momentum": ema} if ema else {}
    caught = layer_rates.caught(model, layer_lr)
    _tell(caught, layer_lr, reporter)
    factors = [(v, layer_lr[p]) for p, held in caught.items() for vs in held.values() for v in vs]
    stages = unfreezing.stages(unfreeze, epochs)
    while True:
        stage = next((s for s in stages if keeper.epoch < s.end), stages[-1])
        rates = learning_rates(
            lr * 0.5**keeper.rollbacks, schedule, epochs, len(train), warmup_epochs
        )
        if stage.start:
            rates = _Later(rates, stage.start * len(train))
        with unit_strides(), _frozen(model, stage, factors, reporter):
            trained.compile(
                optimizer=_scaled(
                    trained,
                    _optimizer(
                        optimizer,
                        rates,
                        (stage.end - stage.start) * len(train),
                        factors,
                        weight_decay=weight_decay,
                        global_clipnorm=clip_norm,
                        **options,
                    ),
                ),
                loss=loss
                or keras.losses.CategoricalCrossentropy(
                    from_logits=True, label_smoothing=label_smoothing
                ),
                metrics=_metrics(y, classes),
                jit_compile=_jit(),
            )
            trained.optimizer.build(trained.trainable_variables)
            keeper.start(trained, rates, stage)
            if keeper.epoch < epochs and not keeper.stalled:
                trained.fit(
                    train.stream(range(keeper.epoch, stage.end)),
                    validation_data=val and val.stream(),
                    initial_epoch=keeper.epoch,
                    epochs=stage.end,
                    steps_per_epoch=len(train),
                    shuffle=False,  # the stream has its own order
                    verbose=0,
                    callbacks=watching,
                )
        if keeper.diverged and keeper.rollbacks < retries:
            keeper.rollbacks += 1
            reporter.warn(
                f"{keeper.diverged} in epoch {keeper.epoch + 1}: back to the end of epoch "
                f"{keeper.epoch}, and on at half the rate ({keeper.rollbacks} of {retries})"
            )
        elif keeper.diverged or stage.last or trained.stop_training:
            break
    if keep_best or keeper.diverged:
        model.set_weights(keeper.weights)
    if keeper.diverged:
        raise _diverged(keeper, train, dataset, lr)
    return History(keeper.rows, keeper.best_epoch)


def _metrics(y: np.ndarray, classes: int) -> list[keras.metrics.Metric]:
    found = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    # A teacher's answers may stand beside one-hot labels.
    if imbalance.uneven(y if y.ndim == 1 else y[:, :classes].argmax(1)):
        found.append(keras.metrics.F1Score(average="macro", name="macro_f1"))
    return found


def _diverged(keeper: Keeper, train: Batches, dataset: Dataset, lr: float) -> DivergedError:
    """Returns the error of a training that went wrong, after writing down what it was."""
    chosen = train.indices(keeper.epoch)[keeper.batch].tolist()
    names = dataset.ids("train") if hasattr(dataset, "ids") else list(map(str, range(len(train.x))))
    pictures = [names[k] for k in chosen]
    kept, rate = f"the weights of {keeper.kept} are kept", lr * 0.5**keeper.rollbacks
    where = f"batch {keeper.batch + 1} with {', '.join(pictures[:3])}"
    if keeper.folder and keeper.writes:
        save_model(keeper.net, keeper.folder / BEST)
        told = {
            "epoch": keeper.epoch + 1,
            "batch": keeper.batch + 1,
            "received": keeper.diverged,
            "lr": rate,
            "rollbacks": keeper.rollbacks,
            "pictures": pictures,
        }
        files.write_json(keeper.folder / FAILURE, told)
        kept += f" in {keeper.folder / BEST}"
        where += f" and others, in {keeper.folder / FAILURE}" if len(pictures) > 3 else ""
    again = f", after going back {keeper.rollbacks} times," if keeper.rollbacks else ""
    return DivergedError(
        f"Training diverged{again} in epoch {keeper.epoch + 1}",
        where=where,
        received=keeper.diverged,
        todo=f"use a lower learning rate, such as {min(rate / 10, 1e-3):g}, or look for bad "
        f"pictures in this batch; {kept}",
    )


@contextlib.contextmanager
def _frozen(
    model: keras.Model,
    stage: unfreezing.Stage,
    factors: Sequence[tuple[keras.Variable, float]],
    reporter: Reporter,
) -> Iterator[None]:
    """Freezes what a stage does not train."""
    layers = list(layer_rates.leaves(model))
    still = unfreezing.before(stage.part, layers)
    zero = {id(variable): variable for variable, factor in factors if not factor}
    # As a whole, which stops the averages of a batch normalization too.
    still += [
        layer
        for layer in layers
        if layer.trainable_variables and all(id(v) in zero for v in layer.trainable_variables)
    ]
    with unfreezing.frozen(still, zero.values()):
        left = len(model.trainable_variables)
        if not left:
            raise UsageError(
                "Nothing is left to train",
                where=f"epoch {stage.start + 1}, in which {stage.part} is trained",
                todo="freeze less with layer_lr and unfreeze",
            )
        if still or zero:
            norms = any("normalization" in type(layer).__name__.lower() for layer in still)
            reporter.note(
                f"from epoch {stage.start + 1}, {left} of {len(model.weights)} weight arrays are "
                "trained" + (", and frozen normalization is as in inference" if norms else "")
            )
        yield


def _tell(caught: Mapping[str, Any], layer_lr: Mapping[str, float], reporter: Reporter) -> None:
    for pattern, weights in caught.items():
        number = len(weights)
        reporter.note(
            f"layer_lr: {pattern!r} is {number} weight{'s' if number > 1 else ''}, at "
            f"{layer_lr[pattern]:g} times the rate"
        )


class _Later(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule of which some steps are done."""

    def __init__(self, rates: Any, done: int) -> None:
        self.rates, self.done = rates, done

    def __call__(self, step: Tensor) -> Tensor:
        return self.rates(keras.ops.cast(step, "int64") + self.done)

    def get_config(self) -> dict[str, Any]:
        return {"rates": self.rates, "done": self.done}


def _optimizer(
    name: str,
    rates: Any,
    steps: int,
    factors: Sequence[tuple[keras.Variable, float]] = (),
    **options: Any,
) -> keras.optimizers.Optimizer:
    make = OPTIMIZERS[registry.known("optimizer", name, OPTIMIZERS)]
    ramp = {"steps": steps} if make is RampedSGD else {}
    make = layer_rates.layered(make, factors) if factors else make
    optimizer = make(learning_rate=rates, **options, **ramp)
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return optimizer


def _scaled(
    trained: keras.Model, optimizer: keras.optimizers.Optimizer
) -> keras.optimizers.Optimizer:
    # Keras scales the loss by itself only if the model as a whole, not its layers, is of float16.
    half = any(layer.compute_dtype == "float16" for layer in trained._flatten_layers())
    return keras.optimizers.LossScaleOptimizer(optimizer) if half else optimizer


def _jit() -> str | bool:
    # XLA halves the speed of small nets on a CPU with TensorFlow; the other backends need it.
    slow = keras.backend.backend() == "tensorflow" and not keras.distribution.list_devices("gpu")
    return False if slow else "auto"


def _only_deterministic_operations() -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # Keras has no switch of its own for this.

        tf.config.experimental.enable_op_determinism()
