"""Anything that classifies pictures, opened by its path: file, folder, run or bundle."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnkit.errors import UsageError
from cnnkit.training.predict import predict_keras
from export import formats

if TYPE_CHECKING:
    import keras

RESIZE = "letterbox"
# By how much probabilities of a quantized output may miss the sum 1.
_ROUNDING = 0.05


@dataclass(frozen=True)
class Runnable:
    """A classifier in its own runtime.

    Attributes:
        path: The file or folder that holds the network.
        kind: "keras" or the module of its format: "tflite", "onnx", "saved_model".
        input_shape: (height, width, channels) of the pictures.
        labels: Class names in the order of the outputs, or None if they are not stored.
        resize: Name of the resize rule.
        predict: From raw pixels `(n, height, width, channels)` to probabilities `(n, classes)`.
        notes: What had to be assumed.
    """

    path: Path
    kind: str
    input_shape: tuple[int, int, int]
    labels: tuple[str, ...] | None
    resize: str
    predict: Callable[[np.ndarray], np.ndarray]
    notes: tuple[str, ...] = ()


def open_model(path: str | Path) -> Runnable:
    """Opens a `.keras`, `.tflite` or `.onnx` file, a SavedModel, a run folder or a bundle.

    Of a bundle and of a run folder, the Keras model is opened. A model of somebody else gets a
    softmax if it has none, and is assumed to take raw pixels.

    Raises:
        UsageError: If there is no such thing at `path`, or it cannot be run.
    """
    path = home(Path(path))
    if not path.exists():
        raise UsageError("No such file or folder", where=path)
    keras_files = [path, path / "model.keras", path / "keras" / "model.keras"]
    for file in keras_files:
        if file.suffix == ".keras" and file.is_file():
            return _open_keras(file, path)
    modules = {".tflite": "tflite", ".onnx": "onnx"}
    if path.is_dir():
        kind = "saved_model"
        path = path if (path / "saved_model.pb").is_file() else path / "1"
        if not (path / "saved_model.pb").is_file():
            raise UsageError(
                "No model in this folder",
                where=path.parent,
                expected="a run folder, a bundle or a SavedModel",
            )
    elif (kind := modules.get(path.suffix, "")) == "":
        raise UsageError(
            "Not a model file", where=path, expected=".keras, .tflite, .onnx or a folder"
        )
    module = formats.module(kind)
    predict, described = module.predictor(path), module.metadata(path)
    shape = described.input_shape if described else module.input_shape(path)
    if len(shape) != 3 or not all(isinstance(n, int) for n in shape) or shape[2] not in (1, 3):
        raise UsageError(
            "The model does not take pictures of a fixed size",
            where=path,
            expected="(height, width, 1 or 3)",
            received=shape,
        )
    if described:
        labels, resize = described.labels, described.resize or RESIZE
        return Runnable(path, kind, shape, labels, resize, predict)
    notes = [f"not a file of cnnkit: raw pixels and {RESIZE} are assumed"]
    probe = predict(np.zeros((1, *shape), np.float32))
    if probe.ndim != 2 or probe.shape[1] < 2:
        raise UsageError(
            "The model's output is not one score for each class",
            where=path,
            expected="(batch, classes) with at least 2 classes",
            received=probe.shape,
        )
    if probe.min() < 0 or abs(probe.sum() - 1) > _ROUNDING:
        notes.append("the model ends in logits: a softmax is added")
        scores = predict
        predict = lambda x: _softmax(scores(x))  # noqa: E731
    return Runnable(path, kind, shape, None, RESIZE, predict, tuple(notes))


def home(path: Path) -> Path:
    """Returns the bundle or the run folder whose Keras model `path` is, else `path` itself."""
    bundle, run = path.parent.parent, path.parent
    if path.name == "model.keras" and (bundle / "manifest.json").is_file():
        return bundle
    if path.name == "model.keras" and (run / "environment.json").is_file():
        return run
    return path


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _open_keras(file: Path, place: Path) -> Runnable:
    from cnnkit.models.saving import load_model
    from export.wrap import as_classifier

    model, notes = as_classifier(load_model(file))
    labels, resize = _described(place) if place.is_dir() else (None, None)
    if labels and len(labels) != model.output_shape[-1]:
        raise UsageError(
            "The labels beside the model do not fit it",
            where=place,
            expected=f"{model.output_shape[-1]} labels",
            received=len(labels),
        )
    return of_keras(file, model, labels, resize or RESIZE, notes)


def of_keras(
    path: Path,
    model: keras.Model,
    labels: tuple[str, ...] | None,
    resize: str,
    notes: Sequence[str],
) -> Runnable:
    """Returns a deployable Keras model as a classifier in its own runtime."""
    return Runnable(
        path,
        "keras",
        tuple(model.input_shape[1:]),
        labels,
        resize,
        lambda x: predict_keras(model, x),
        tuple(notes),
    )


def _described(folder: Path) -> tuple[tuple[str, ...] | None, str | None]:
    """Returns the labels and the resize rule of a run folder or a bundle."""
    from cnnkit.training.train import Run
    from export.bundle import Bundle

    if (folder / Bundle.MANIFEST).is_file():
        bundle = Bundle.open(folder)
        return bundle.labels, bundle.resize
    if not (folder / Bundle.DATA).is_file():  # a model that was compressed without data
        return None, None
    run = Run.open(folder)
    return tuple(run.manifest.classes), run.recipe.data.resize
