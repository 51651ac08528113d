"""`distill`: trains a small network to do what a large one does."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any
from typing import Literal
from typing import TypeAlias
from typing import cast

import keras
import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from cnnkit.analysis.logits import logits
from cnnkit.data import sample
from cnnkit.ensembles import averaged
from cnnkit.errors import UsageError
from cnnkit.training.fit import History
from cnnkit.training.fit import fit
from cnnkit.training.pipeline import Batches
from export.distillation.distiller import Distiller
from export.distillation.losses import logit_regression
from export.distillation.losses import soft_labels
from export.distillation.neurons import neuron_regression
from export.subject import open_subject

if TYPE_CHECKING:
    from cnnkit.data import Dataset

Source: TypeAlias = keras.Model | str | Path
# Pictures on which neurons are selected.
SAMPLE = 2048
# Pictures at a time for which a teacher is asked.
BATCH = 256


@dataclass(frozen=True)
class Config:
    """What is taught, and how much it counts.

    Args:
        method: "soft-labels": the teacher's probabilities at a temperature. "logits": what they
            are made from. "neurons": selected features of the layer before.
        temperature: Of the soft labels, positive: the higher, the more the small probabilities
            count.
        weight: Of the teacher in the loss, in [0, 1]; the labels have the rest. With 0 the
            training is the plain one.
        keep: Fraction of the teacher's neurons that are selected, in (0, 1].
    """

    method: Literal["soft-labels", "logits", "neurons"] = "soft-labels"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    weight: Annotated[float, Field(ge=0, le=1)] = 0.9
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5


def distill(
    student: keras.Model,
    teacher: Source | Sequence[Source],
    dataset: Dataset,
    *,
    epochs: int,
    config: Config | None = None,
    ask_once: bool = False,
    **options: Any,
) -> History:
    """Trains `student` in place on its teacher and the labels.

    It is left with the weights of its best epoch, as `cnnkit.training.fit.fit` leaves them.

    Args:
        student: Functional classifier of raw pixels, ending in logits or probabilities.
        teacher: What `open_teacher` opens. It is not changed.
        dataset: Its splits `train` and `val` are used.
        epochs: At most.
        config: What is taught; None teaches soft labels.
        ask_once: Whether the teacher sees each picture once, before the training, and not in every
            epoch. That saves its time if no callback changes the pictures; not for "neurons".
        **options: As `fit` takes them, such as `lr` and `batch_size`.

    Raises:
        UsageError: If teacher, student and data do not fit together.
        DivergedError: As `fit` raises it.
    """
    config, opened = config or Config(), open_teacher(teacher, dataset)
    lesson = taught_by(opened, config, dataset)
    if not ask_once or lesson is None:
        return fit(student, dataset, epochs=epochs, wrap=lesson, **options)
    if config.method == "neurons":
        raise UsageError("The neurons of a teacher cannot be remembered", todo="leave out ask_once")

    def wrap(plain: keras.Model) -> keras.Model:
        distiller = lesson(plain)
        distiller.answered = True
        return distiller

    answered = cast("Dataset", _Answered(dataset, logits(opened)))
    return fit(student, answered, epochs=epochs, wrap=wrap, **options)


def open_teacher(source: Source | Sequence[Source], dataset: Dataset | None = None) -> keras.Model:
    """Returns a classifier of raw pixels: of a model, a file, a run folder, or an ensemble of them.

    Raises:
        UsageError: If it is not one, or does not fit the data.
    """
    if isinstance(source, keras.Model | str | Path):
        return open_subject(source, dataset).model
    return averaged([open_teacher(member, dataset) for member in source])


def taught_by(
    teacher: keras.Model, config: Config, dataset: Dataset | None = None
) -> Callable[[keras.Model], keras.Model] | None:
    """Returns the `wrap` under which `fit` teaches a student, or None if the weight is 0.

    Args:
        teacher: Classifier of raw pixels, which is copied.
        config: What is taught.
        dataset: To select neurons on; the other methods need none.
    """
    if not config.weight:
        return None
    copy = keras.models.clone_model(teacher)
    copy.set_weights(teacher.get_weights())
    frozen = logits(copy)

    def wrap(student: keras.Model) -> keras.Model:
        _require_fit(frozen, student)
        regressor = None
        if config.method == "soft-labels":
            loss = soft_labels(config.temperature)
        elif config.method == "logits":
            loss = logit_regression()
        else:
            loss, regressor = neuron_regression(frozen, student, config.keep, *_sample(dataset))
        distiller = Distiller(frozen, student, loss, student_loss_weight=1 - config.weight)
        distiller.regressor = regressor  # Known to the distiller, so that it is trained.
        return distiller

    return wrap


class _Answered:
    """A dataset whose labels are one-hot, with a teacher's logits beside them."""

    def __init__(self, dataset: Dataset, teacher: keras.Model) -> None:
        self.dataset, self.teacher = dataset, teacher

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.dataset.arrays(split)
        if not len(y):
            return x, y
        batches = Batches(x, y, self.teacher.output_shape[-1], BATCH)
        return x, np.concatenate(
            [batches.one_hot[y], self.teacher.predict(batches.stream(), verbose=0)], 1
        )


def _require_fit(teacher: keras.Model, student: keras.Model) -> None:
    expected, received = ((m.input_shape[1:], m.output_shape[1:]) for m in (teacher, student))
    if expected != received:
        raise UsageError(
            "The student has another input size or other classes than its teacher",
            where=student.name,
            expected=expected,
            received=received,
        )


def _sample(dataset: Dataset | None) -> tuple[np.ndarray, np.ndarray]:
    if dataset is None:
        raise UsageError("Neurons are selected on data, and there are none")
    x, y = sample(dataset, SAMPLE)
    return x.astype(np.float32), y
