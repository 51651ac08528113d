"""The file formats that a model can be written in, as a table that needs no TensorFlow."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from cnnkit import registry


@dataclass(frozen=True)
class Format:
    """One format: who writes it, how, and where it lies in a bundle.

    Attributes:
        name: What users type.
        module: Module of this package with `write()`, `run()` and `metadata()`.
        variant: The module's name for the kind of numbers.
        place: Path in the bundle; `{name}` stands for the model's name.
        needs_calibration: Whether writing it takes calibration pictures.
        description: One line for lists.
        default: Whether it is written where nobody says which formats are.
    """

    name: str
    module: str
    variant: str
    place: str
    needs_calibration: bool
    description: str
    default: bool = True

    def path(self, name: str) -> Path:
        """Returns the path relative to the bundle for a model called `name`."""
        return Path(self.place.format(name=name))

    def missing(self) -> str:
        """Returns what is not installed that this format needs, or an empty string."""
        find = getattr(self.load(), "missing", None)
        return find() if find else ""

    def load(self) -> ModuleType:
        """Imports the module that writes and runs this format."""
        return module(self.module)


FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            "tflite",
            "tflite",
            "float32",
            "tflite/{name}_float32.tflite",
            False,
            "TensorFlow Lite, float32: exact, for phones and LiteRT on any CPU",
        ),
        Format(
            "tflite-fp16",
            "tflite",
            "float16",
            "tflite/{name}_float16.tflite",
            False,
            "TensorFlow Lite, weights stored as float16: half the size, computes in float32",
        ),
        Format(
            "tflite-dynamic",
            "tflite",
            "dynamic",
            "tflite/{name}_dynamic.tflite",
            False,
            "TensorFlow Lite, int8 weights with float32 activations: a quarter of the size",
        ),
        Format(
            "tflite-int8",
            "tflite",
            "int8",
            "tflite/{name}_int8.tflite",
            True,
            "TensorFlow Lite, int8 throughout: phones, microcontrollers, NPUs; takes uint8 pixels",
        ),
        Format(
            "tflite-int16x8",
            "tflite",
            "int16x8",
            "tflite/{name}_int16x8.tflite",
            True,
            "TensorFlow Lite, int8 weights with int16 activations: where 256 levels are too few; "
            "slow on CPUs; only when asked for",
            default=False,
        ),
        Format(
            "tflite-int4",
            "int4",
            "int4",
            "tflite/{name}_int4.tflite",
            False,
            "TensorFlow Lite, int4 weights with float32 activations: smaller than int8, and less "
            "exact; only when asked for; the extra [quantizers]",
            default=False,
        ),
        Format(
            "tflite-mediapipe",
            "mediapipe",
            "int8",
            "tflite/{name}_mediapipe.tflite",
            True,
            "the int8 file for MediaPipe's ImageClassifier: takes RGB, with labels and TFLite "
            "metadata",
        ),
        Format(
            "micro",
            "micro",
            "int8",
            "micro/{name}.tflite",
            True,
            "TFLite Micro, int8 throughout, input and output too, with C header and op resolver",
        ),
        Format(
            "onnx",
            "onnx",
            "float32",
            "onnx/{name}_float32.onnx",
            False,
            "ONNX, float32, any batch size",
        ),
        Format(
            "onnx-int8",
            "onnx",
            "int8",
            "onnx/{name}_int8.onnx",
            True,
            "ONNX, int8 QDQ per channel, in the form that is fast on x86; any batch size",
        ),
        Format(
            "savedmodel",
            "saved_model",
            "float32",
            "serving/{name}/1",
            False,
            "SavedModel in the folder layout of TF Serving, any batch size",
        ),
    )
}

DEFAULT = tuple(name for name, row in FORMATS.items() if row.default)


def get(name: str) -> Format:
    """Returns the format called `name`.

    Raises:
        UsageError: If there is none; the message has the closest names.
    """
    return FORMATS[registry.known("format", name, FORMATS)]


def select(names: Iterable[str]) -> list[Format]:
    """Returns the formats called `names`, each once, in the order of the names.

    Raises:
        UsageError: If a name is unknown; the message has the closest ones.
    """
    return [get(name) for name in dict.fromkeys(names)]


def module(name: str) -> ModuleType:
    """Imports a module of this package that writes and runs files."""
    return importlib.import_module(f"export.formats.{name}")
