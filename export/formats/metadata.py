"""What travels inside every exported file besides the network."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cnnkit
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    import keras

KEY = "cnnkit"
INPUT = "image"
OUTPUT = "probabilities"
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True)
class Metadata:
    """Labels and pre-processing of an exported model, stored as JSON under the key `cnnkit`.

    Attributes:
        input_shape: (height, width, channels) of the pictures.
        labels: Class names in the order of the outputs.
        resize: Name of the rule that brings a picture to that size.
        silent: Layers that gave nothing but zeros on the calibration pictures.
        version: Version of cnnkit that wrote the file.
    """

    input_shape: tuple[int, ...]
    labels: tuple[str, ...] | None = None
    resize: str | None = None
    silent: tuple[str, ...] = ()
    version: str = cnnkit.__version__

    def dumps(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))


def of(
    model: keras.Model,
    labels: Sequence[str] | None,
    resize: str | None,
    silent: Sequence[str] = (),
) -> Metadata:
    """Returns the metadata for an export of `model`.

    Raises:
        UsageError: If the model has no single input and output of known shape, or the labels
            are not as many as its outputs.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1 or None in model.input_shape[1:]:
        raise UsageError(
            "Cannot export this model",
            where=model.name,
            expected="one input of known size and one output",
            received=f"inputs {[t.shape for t in model.inputs]}, "
            f"outputs {[t.shape for t in model.outputs]}",
        )
    if labels is not None and len(labels) != model.output_shape[-1]:
        raise UsageError(
            "The labels do not fit the model",
            where=model.name,
            expected=f"{model.output_shape[-1]} labels, one for each output",
            received=f"{len(labels)}",
        )
    return Metadata(
        tuple(model.input_shape[1:]), tuple(labels) if labels else None, resize, tuple(silent)
    )


def line(label: str) -> str:
    """Returns a label as a line of a list of labels: control characters might end it or cut it."""
    return _CONTROLS.sub(" ", label) or " "


def loads(text: str | bytes | None) -> Metadata | None:
    """Returns the metadata in `text`, or None if it is not ours."""
    try:
        found = json.loads(text or "null")
        shape, labels = tuple(map(int, found["input_shape"])), found["labels"]
        names = None if labels is None else tuple(map(str, labels))
        silent = tuple(map(str, found["silent"]))
        resize = None if found["resize"] is None else str(found["resize"])
        return Metadata(shape, names, resize, silent, str(found["version"]))
    except (ValueError, TypeError, KeyError):
        return None
