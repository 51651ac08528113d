"""What TF Serving needs beside a SavedModel: configuration, a request, warm-up records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from cnnkit import files
from export.formats.metadata import INPUT
from export.formats.saved_model import EXTRA

SIGNATURE = "serving_default"
WARMUP = f"{EXTRA}/tf_serving_warmup_requests"
# Mount point of models in the official image.
BASE_PATH = "/models"
# A batch of each size is warmed up; the server pads to the next of them.
BATCH_SIZES = (1, 8, 32)

# A start for CPUs, after TF Serving's batching guide: a batch waits for at most 1 ms.
_BATCHING = f"""max_batch_size {{ value: {BATCH_SIZES[-1]} }}
batch_timeout_micros {{ value: 1000 }}
max_enqueued_batches {{ value: 64 }}
{"".join(f"allowed_batch_sizes: {size}{chr(10)}" for size in BATCH_SIZES)}"""


def write(folder: Path, name: str, image: np.ndarray) -> list[Path]:
    """Writes the files around the SavedModel `folder/name/1` and returns their paths.

    Args:
        folder: The bundle's folder `serving`, with the SavedModel in it.
        name: The model's name in URLs.
        image: One picture, raw pixels 0-255, `(height, width, channels)`.
    """
    row = np.asarray(image, np.float32)
    request = {"signature_name": SIGNATURE, "instances": [row.tolist()]}
    warmup = folder / name / "1" / WARMUP
    with files.replacing(warmup) as partial:
        _write_warmup(partial, name, row)
    return [
        files.write_text(folder / "models.config", _models(name)),
        files.write_text(folder / "batching.config", _BATCHING),
        files.write_text(folder / "request_example.json", json.dumps(request) + "\n"),
        warmup,
    ]


def _models(name: str) -> str:
    # JSON strings are valid in the text format of protocol buffers.
    return (
        "model_config_list {\n  config {\n"
        f"    name: {json.dumps(name)}\n"
        f"    base_path: {json.dumps(f'{BASE_PATH}/{name}')}\n"
        '    model_platform: "tensorflow"\n  }\n}\n'
    )


def _write_warmup(path: Path, name: str, row: np.ndarray) -> None:
    """Writes one `PredictionLog` for each batch size as a TFRecord file.

    The messages are put together by hand: their Python classes are in
    `tensorflow-serving-api`, a package that pins TensorFlow for four levels of one field each.
    """
    import tensorflow as tf

    spec = _field(1, name.encode()) + _field(3, SIGNATURE.encode())  # ModelSpec
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in BATCH_SIZES:
            batch = np.broadcast_to(row, (size, *row.shape))
            tensor = tf.make_tensor_proto(np.ascontiguousarray(batch)).SerializeToString()
            entry = _field(1, INPUT.encode()) + _field(2, tensor)  # map<string, TensorProto>
            request = _field(1, spec) + _field(2, entry)  # PredictRequest
            predict_log = _field(1, request)  # PredictLog.request
            writer.write(_field(6, predict_log))  # PredictionLog.predict_log


def _field(number: int, payload: bytes) -> bytes:
    """Returns a length-delimited field in the wire format of protocol buffers."""
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    head, rest = value & 0x7F, value >> 7
    return bytes([head | 0x80]) + _varint(rest) if rest else bytes([head])
