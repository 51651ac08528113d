"""Pass `qat`: trains the model in the arithmetic of int8, so that the integer file loses little."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from cnnkit.errors import UsageError
from export.result import Result

if TYPE_CHECKING:
    import keras

    from export.pipeline import PassData

# What raw pixels are told by: nobody's normalized pixels reach further.
_RAW = 1.0


@dataclass(frozen=True)
class Config:
    """How to train.

    Args:
        epochs: At most; None takes as many as fine-tuning after a pass has.
        lr: Learning rate at its highest; None takes that of fine-tuning.
        momentum: Part of the old range in the moving average over batches, in [0, 1).
    """

    epochs: Annotated[int | None, Field(ge=0, description="an integer >= 0")] = None
    lr: Annotated[float | None, Field(gt=0, description="a number > 0")] = None
    momentum: Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")] = 0.99


def apply(model: keras.Model, config: Config, data: PassData | None = None) -> Result:
    """Trains a simulation of the int8 file and returns the plain float model with its ranges.

    The simulation rounds where TFLite does: kernels symmetrically and per output channel,
    activations per tensor, after batch normalization and ReLU. The model that comes back has the
    layers of the one that came in and kernels that are on the int8 grid; `Result.ranges` has
    the ranges of the activations, which the files tflite-int8 and onnx-int8 then have.

    Args:
        model: Functional or sequential model with one input and one output. It is not changed.
        config: How to train.
        data: Pictures, from which the ranges start, and what trains on them.

    Raises:
        UsageError: If there are no pictures, or the model has no layer graph.

    Reference:
        Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", https://arxiv.org/abs/1712.05877. Differs: weights per
        channel; one convolution a layer in training instead of two, see `twin`; the ranges are
        observed before training instead of being switched on after some steps.
    """
    if data is None or data.x is None:
        raise UsageError(
            "Quantization-aware training needs pictures", where=model.name, todo="give data"
        )
    from export.quantization.twin import Twin

    raw = bool(data.x.min() >= 0 and data.x.max() > _RAW)
    twin = Twin(model, pixels=raw, momentum=config.momentum)
    twin.observe(data.x)
    options = {"epochs": config.epochs, "lr": config.lr}
    if data.train is not None:
        data.train(twin.model, **{k: v for k, v in options.items() if v is not None})
    plain, ranges = twin.finalize()
    counts = {
        "int8": len(twin.plan.ops) - len(twin.floats),
        "float": len(twin.floats),
        "ranges": len(ranges),
    }
    notes = [
        f"{counts['int8']} operations are int8, with {len(ranges)} ranges that replace calibration"
    ]
    if twin.floats:
        reasons = Counter(twin.floats.values())
        told = ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
        notes.append(f"{len(twin.floats)} stay float32: {told}")
    return Result(
        plain,
        {**counts, "epochs": config.epochs},
        protected=[f"{path}: {reason}" for path, reason in twin.floats.items()],
        notes=notes,
        ranges=ranges,
    )
