"""Any classification model of a user as the deployable form: raw pixels in, probabilities out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnnkit.data import sample
from cnnkit.errors import UsageError
from export.formats.metadata import INPUT

if TYPE_CHECKING:
    import keras

    from cnnkit.data import Dataset

# Name -> scale and offset that bring 0-255 into the range.
PIXEL_RANGES = {"0-255": (1.0, 0.0), "0-1": (1 / 255, 0.0), "-1-1": (1 / 127.5, -1.0)}
_PICTURES = 256


def as_classifier(
    model: keras.Model, dataset: Dataset | None = None, pixel_range: str | None = None
) -> tuple[keras.Model, list[str]]:
    """Returns `model` with input `image` (pixels 0-255) and output `probabilities`, and notes.

    A softmax is added to a model that ends in logits. The pixel range is the given one, or the
    one under which the model is right most often on training pictures. The layers are copies,
    and the graph stays flat; a model that has the form already is returned as it is.

    Args:
        model: Functional or sequential classifier of pictures with a fixed input size.
        dataset: Labelled pictures at the model's size; its classes must fit the outputs.
        pixel_range: "0-255", "0-1" or "-1-1": what the model was trained on. None measures it.

    Raises:
        UsageError: If it is not such a model, or the data do not fit it.
    """
    import keras

    from cnnkit.analysis.functional import called_once
    from cnnkit.analysis.functional import copied_onto
    from cnnkit.analysis.logits import outputs_probabilities

    check(model)
    if dataset is not None:
        _require_fit(model, dataset)
    if pixel_range is not None and pixel_range not in PIXEL_RANGES:
        raise UsageError(
            "Unknown pixel range", expected=" or ".join(PIXEL_RANGES), received=pixel_range
        )
    if _is_ours(model) and pixel_range in (None, "0-255"):
        return model, []
    softmax = outputs_probabilities(model)
    notes = [] if softmax else ["the model ends in logits: a softmax is added"]
    if pixel_range is None:
        pixel_range, note = _measure(model, dataset, softmax)
        notes.append(note)
    scale, offset = PIXEL_RANGES[pixel_range]

    def renamed(name: str) -> str:
        return _free(model, name) if name == INPUT else name

    x = image = keras.Input(model.input_shape[1:], name=INPUT)
    if (scale, offset) != (1.0, 0.0):
        x = keras.layers.Rescaling(scale, offset, name=_free(model, "pixels"))(x)
    kind = "linear" if softmax else "softmax"
    end = keras.layers.Activation(kind, dtype="float32", name=_free(model, "probabilities"))
    wrapped = called_once(image, end(copied_onto(x, model, renamed)), model.name)
    return wrapped, notes


def _free(model: keras.Model, name: str) -> str:
    taken = {layer.name for layer in model.layers}
    return next(n for n in (name, *(f"{name}_{i}" for i in range(1, 1000))) if n not in taken)


def _is_ours(model: keras.Model) -> bool:
    import keras

    from cnnkit.analysis.logits import outputs_probabilities

    last = model.layers[-1]
    return (
        model.inputs[0].name == INPUT
        and isinstance(last, keras.layers.Softmax | keras.layers.Activation)
        and last.name.startswith("probabilities")
        and outputs_probabilities(model)
        and model.outputs[0].dtype == model.inputs[0].dtype == "float32"
    )


def require_graph(model: keras.Model) -> None:
    """Raises UsageError if the layers of `model` cannot be followed."""
    import keras

    if not isinstance(model, keras.Sequential | keras.Function) or not model.built:
        raise UsageError(
            "The model has no layer graph",
            where=model.name,
            expected="a functional model, or a sequential one with a known input shape",
            received=f"{type(model).__name__}{'' if model.built else ', not built'}",
        )


def check(model: keras.Model) -> None:
    """Makes sure that `model` is a classifier of pictures whose layers can be followed.

    One that ends in a sigmoid is none: each of its outputs is right or wrong by itself, while the
    losses, gates and files here know one class for each picture.

    Raises:
        UsageError: If it is not.
    """
    from cnnkit.analysis.logits import ends_in

    require_graph(model)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UsageError(
            "Only models with one input and one output are supported",
            where=model.name,
            received=f"{len(model.inputs)} inputs and {len(model.outputs)} outputs",
        )
    shape, outputs = model.input_shape[1:], model.output_shape[1:]
    if len(shape) != 3 or None in shape or shape[2] not in (1, 3):
        raise UsageError(
            "The model's input is not a picture of a fixed size",
            where=model.name,
            expected="(height, width, 1 or 3)",
            received=shape,
        )
    if len(outputs) != 1 or outputs[0] is None or outputs[0] < 2:
        raise UsageError(
            "The model's output is not one score for each class",
            where=model.name,
            expected="(classes,) with at least 2 classes",
            received=outputs,
        )
    if ends_in(model.outputs[0], "sigmoid"):
        raise UsageError(
            "The model's outputs are probabilities that are independent of each other",
            where=model.name,
            expected="one class for each picture: logits, or a softmax at the end",
            received="a sigmoid at the end",
            todo="leave the sigmoid out if every picture has one class",
        )


def _require_fit(model: keras.Model, dataset: Dataset) -> None:
    shape, outputs = model.input_shape[1:], model.output_shape[1:]
    if outputs[0] != len(dataset.classes):
        raise UsageError(
            "The model and the data have different numbers of classes",
            where=model.name,
            expected=f"{outputs[0]} classes, as the model has outputs",
            received=f"{len(dataset.classes)} classes: {', '.join(dataset.classes[:5])}…",
        )
    if tuple(shape) != tuple(dataset.image_shape):
        raise UsageError(
            "The data were loaded at another size than the model takes",
            where=model.name,
            expected=shape,
            received=dataset.image_shape,
        )


def _measure(model: keras.Model, dataset: Dataset | None, softmax: bool) -> tuple[str, str]:
    """Returns the pixel range under which the model is best on training pictures, and a note."""
    import keras

    if dataset is None:
        return "0-255", "pixel range 0-255 assumed: without data it cannot be measured"
    x, y = sample(dataset, _PICTURES)
    x = x.astype("float32")
    ranks = {}
    for name, (scale, offset) in PIXEL_RANGES.items():
        scores = np.asarray(model.predict(x * scale + offset, verbose=0), "float32")
        p = scores if softmax else np.asarray(keras.ops.softmax(scores))
        # The mean log-probability decides between ranges that are right equally often.
        logs = np.log(np.clip(p[np.arange(len(y)), y], 1e-7, 1.0))
        ranks[name] = (float(np.mean(p.argmax(1) == y)), float(np.mean(logs)))
    best = max(ranks, key=lambda name: ranks[name])
    others = ", ".join(f"{ranks[name][0]:.3f} with {name}" for name in ranks if name != best)
    note = (
        f"pixel range {best} measured: accuracy {ranks[best][0]:.3f} on {len(x)} training "
        f"pictures ({others})"
    )
    majority = float(np.bincount(y).max() / len(y))
    if ranks[best][0] <= majority:
        note += f"; none beats the majority class ({majority:.3f}), so check the range yourself"
    return best, note
