"""TFLite metadata: what MediaPipe, and other clients on phones, want to know of a `.tflite` file.

Reference:
    metadata_schema.fbs of https://github.com/tensorflow/tflite-support. Differs: no more than what
    a classifier of pictures needs; all of it is in version 1.0.0 of the schema.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import numpy as np

KEY = "TFLITE_METADATA"
LABELS = "labels.txt"

_IDENTIFIER = b"M001"
_PARSER = "1.0.0"
# Members of the unions and enumerations of the schema.
_FEATURES, _IMAGE = 1, 2
_NORMALIZATION = 1
_RGB = 1
_AXIS_LABELS = 2


def build(name: str, version: str, inputs: str, outputs: str, *, labelled: bool) -> bytes:
    """Returns the metadata of a classifier that takes raw RGB pixels and gives probabilities.

    Args:
        name: Of the model.
        version: Of the model.
        inputs: Name of the input tensor.
        outputs: Name of the output tensor.
        labelled: Whether the file carries `LABELS`, with the class names.
    """
    import flatbuffers  # type: ignore[import-untyped]  # comes with LiteRT

    builder = flatbuffers.Builder(1024)
    text = builder.CreateString
    # (x - mean) / std leaves the pixels as they are.
    identity = _table(builder, {0: _floats(builder, 0.0), 1: _floats(builder, 1.0)})
    image = _tensor(
        builder,
        inputs,
        "A picture: raw RGB pixels.",
        (_IMAGE, _table(builder, bytes_={0: _RGB})),
        255.0,
        {4: _vector(builder, [_union(builder, _NORMALIZATION, identity)])},
    )
    files = {}
    if labelled:
        file = _table(builder, {0: text(LABELS), 1: text("One class a line.")}, {2: _AXIS_LABELS})
        files = {6: _vector(builder, [file])}
    scores = _tensor(
        builder,
        outputs,
        "The probability of each class.",
        (_FEATURES, _table(builder)),
        1.0,
        files,
    )
    graph = _table(builder, {2: _vector(builder, [image]), 3: _vector(builder, [scores])})
    model = {
        0: text(name),
        2: text(version),
        3: _vector(builder, [graph]),
        7: text(_PARSER),
    }
    builder.Finish(_table(builder, model), _IDENTIFIER)
    return bytes(builder.Output())


def with_files(content: bytes, files: Mapping[str, str]) -> bytes:
    """Returns a `.tflite` file with files behind it, as the ZIP archive that clients look for.

    They are stored, not compressed, so that a client can map them into memory.
    """
    whole = io.BytesIO(content)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text.encode())  # dated 1980, whenever it is
    return whole.getvalue()


def _tensor(
    builder: Any,
    name: str,
    description: str,
    content: tuple[int, int],
    most: float,
    more: Mapping[int, int],
) -> int:
    """Writes a TensorMetadata; its values go from 0 to `most`."""
    fields = {
        0: builder.CreateString(name),
        1: builder.CreateString(description),
        3: _union(builder, *content),
        5: _table(builder, {0: _floats(builder, most), 1: _floats(builder, 0.0)}),
    }
    return _table(builder, fields | dict(more))


def _union(builder: Any, kind: int, member: int) -> int:
    """Writes a table whose only field is a union: the kind of the member, and the member."""
    return _table(builder, {1: member}, {0: kind})


def _table(
    builder: Any, offsets: Mapping[int, int] | None = None, bytes_: Mapping[int, int] | None = None
) -> int:
    """Writes a table from its fields, by their number in the schema."""
    offsets, bytes_ = offsets or {}, bytes_ or {}
    builder.StartObject(max([*offsets, *bytes_], default=-1) + 1)
    for field, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)
    for field, value in bytes_.items():
        builder.PrependUint8Slot(field, value, 0)
    return builder.EndObject()


def _vector(builder: Any, offsets: Iterable[int]) -> int:
    offsets = list(offsets)
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _floats(builder: Any, value: float) -> int:
    return builder.CreateNumpyVector(np.array([value], np.float32))
