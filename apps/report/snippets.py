"""Programs that run a bundle's files, in the languages of its users, with the tensors' own names.

They are written from the files themselves: names, types and shapes are what a runtime says of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from export import formats
from export.formats import Format
from export.formats import micro

# The file that phones, C++ and Python are shown: the first of these that passed.
_TFLITE = ("tflite-int8", "tflite-fp16", "tflite-dynamic", "tflite")
_MICRO = ("micro",)
_ONNX = ("onnx-int8", "onnx")
_SAVED_MODEL = ("savedmodel",)


@dataclass(frozen=True)
class Snippet:
    """A program.

    Attributes:
        language: For people.
        code: Name of the language in a fenced block of Markdown.
        text: The program; paths in it are relative to the bundle.
    """

    language: str
    code: str
    text: str


@dataclass(frozen=True)
class Signature:
    """What a file takes and gives, as its runtime says.

    Attributes:
        file: Path in the bundle.
        name: Of the model.
        key: Name of the signature; empty in ONNX, which has none.
        input: Name of the pictures' tensor.
        input_dtype: Its type, as NumPy calls it.
        input_shape: Its shape; -1 is any number.
        output: Name of the scores' tensor.
        output_dtype: Its type.
        output_shape: Its shape.
    """

    file: str
    name: str
    key: str
    input: str
    input_dtype: str
    input_shape: tuple[int, ...]
    output: str
    output_dtype: str
    output_shape: tuple[int, ...]

    picture = "golden/00.png"

    @property
    def stem(self) -> str:
        """Name of the file and of the C sources beside it."""
        return Path(self.file).stem

    @property
    def identifier(self) -> str:
        """Beginning of the identifiers in the C sources."""
        return micro.identifier(self.stem)

    @property
    def height(self) -> int:
        return self.input_shape[1]

    @property
    def width(self) -> int:
        return self.input_shape[2]

    @property
    def channels(self) -> int:
        return self.input_shape[3]

    @property
    def mode(self) -> str:
        """Pillow's name for such pictures."""
        return "L" if self.channels == 1 else "RGB"

    @property
    def classes(self) -> int:
        return self.output_shape[-1]

    @property
    def pixels(self) -> int:
        return math.prod(self.input_shape[1:])

    @property
    def input_bytes(self) -> int:
        return self.pixels * (1 if self.input_dtype == "uint8" else 4)


def write(folder: Path, name: str, passed: Sequence[str]) -> list[Snippet]:
    """Returns a program for every language that a file which passed is for.

    Args:
        folder: The bundle's folder.
        name: Name of the model.
        passed: The formats whose files are there.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("apps", "report"),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made = []
    for choice, read, languages in _KINDS:
        chosen = next((one for one in choice if one in passed), None)
        if chosen is None:
            continue
        signature = read(folder, formats.get(chosen), name)
        for language, code, template in languages:
            text = environment.get_template(template).render(s=signature)
            made.append(Snippet(language, code, text))
    return made


def of_tflite(folder: Path, row: Format, name: str) -> Signature:
    """Returns the signature of a TFLite file."""
    from export.formats import tflite

    file = row.path(name)
    runner = tflite.interpreter(folder / file)
    ((key, ends),) = runner.get_signature_list().items()
    (given,), (made,) = ends["inputs"], ends["outputs"]
    (i,), (o,) = runner.get_input_details(), runner.get_output_details()
    return Signature(file.as_posix(), name, key, given, *_described(i), made, *_described(o))


def of_onnx(folder: Path, row: Format, name: str) -> Signature:
    """Returns the signature of an ONNX file."""
    from export.formats import onnx

    file = row.path(name)
    runner = onnx.session(folder / file)
    (i,), (o,) = runner.get_inputs(), runner.get_outputs()

    def described(value: Any) -> tuple[str, tuple[int, ...]]:
        dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}[value.type]
        return dtype, tuple(n if isinstance(n, int) else -1 for n in value.shape)

    return Signature(file.as_posix(), name, "", i.name, *described(i), o.name, *described(o))


def of_saved_model(folder: Path, row: Format, name: str) -> Signature:
    """Returns the signature of a SavedModel, without loading it."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    from export.formats.trace import SIGNATURE

    file = row.path(name)
    proto = saved_model_pb2.SavedModel.FromString((folder / file / "saved_model.pb").read_bytes())
    signature = proto.meta_graphs[0].signature_def[SIGNATURE]
    ((given, i),), ((made, o),) = signature.inputs.items(), signature.outputs.items()

    def described(value: Any) -> tuple[str, tuple[int, ...]]:
        shape = tuple(int(d.size) for d in value.tensor_shape.dim)
        return tf.dtypes.as_dtype(value.dtype).name, shape

    return Signature(file.as_posix(), name, SIGNATURE, given, *described(i), made, *described(o))


def _described(details: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    return details["dtype"].__name__, tuple(map(int, details["shape"]))


_Read = Callable[[Path, Format, str], Signature]
# The files, who reads them, and language, its name in Markdown and template of each program.
_KINDS: tuple[tuple[tuple[str, ...], _Read, tuple[tuple[str, str, str], ...]], ...] = (
    (
        _TFLITE,
        of_tflite,
        (
            ("Python, LiteRT", "python", "snippet_python.j2"),
            ("Kotlin, Android", "kotlin", "snippet_kotlin.j2"),
            ("Swift, iOS", "swift", "snippet_swift.j2"),
            ("C++, LiteRT", "cpp", "snippet_cpp.j2"),
        ),
    ),
    (_MICRO, of_tflite, (("C++, TFLite Micro", "cpp", "snippet_micro.j2"),)),
    (_ONNX, of_onnx, (("Python, ONNX Runtime", "python", "snippet_onnx.j2"),)),
    (_SAVED_MODEL, of_saved_model, (("curl, TF Serving", "sh", "snippet_curl.j2"),)),
)
