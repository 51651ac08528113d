"""What TF Serving needs beside a SavedModel: configuration, requests, warm-up records, a guide."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cnnkit import files
from cnnkit.data import pictures
from export.formats.metadata import INPUT
from export.formats.saved_model import EXTRA
from export.formats.signatures import BYTES
from export.formats.signatures import CLASSIFY
from export.formats.signatures import INPUT_BYTES
from export.formats.trace import SIGNATURE

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
_MONITORING = """prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""
_CLIENT = Path(__file__).with_name("grpc_example.py")


def write(folder: Path, name: str, image: np.ndarray) -> list[Path]:
    """Writes the files around the SavedModel `folder/name/1` and returns their paths.

    Args:
        folder: The bundle's folder `serving`, with the SavedModel in it.
        name: The model's name in URLs.
        image: One picture, raw pixels 0-255, `(height, width, channels)`, uint8.
    """
    import tensorflow as tf

    # The server of a version reads what TensorFlow of that version writes.
    (tag,) = re.findall(r"^\d+\.\d+\.\d+", tf.__version__)
    row, png = np.asarray(image, np.float32), _png(image)
    b64 = {"b64": base64.b64encode(png).decode()}
    requests = {
        "request_example": {"signature_name": SIGNATURE, "instances": [row.tolist()]},
        "request_bytes": {"signature_name": BYTES, "instances": [b64]},
        "request_classify": {"signature_name": CLASSIFY, "examples": [{INPUT_BYTES: b64}]},
    }
    warmup = folder / name / "1" / WARMUP
    with files.replacing(warmup) as partial:
        _write_warmup(partial, name, row, png)
    texts = {
        "models.config": _models(name),
        "batching.config": _BATCHING,
        "monitoring.config": _MONITORING,
        "compose.yaml": _COMPOSE.format(tag=tag),
        "README.md": _GUIDE.format(name=name),
        "grpc_example.py": _CLIENT.read_text(encoding="utf-8"),
        **{f"{key}.json": json.dumps(value) + "\n" for key, value in requests.items()},
    }
    return [*(files.write_text(folder / file, text) for file, text in texts.items()), warmup]


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    pictures.of_pixels(np.asarray(image, np.uint8)).save(file, "PNG")
    return file.getvalue()


def _models(name: str) -> str:
    # JSON strings are valid in the text format of protocol buffers.
    return (
        "model_config_list {\n  config {\n"
        f"    name: {json.dumps(name)}\n"
        f"    base_path: {json.dumps(f'{BASE_PATH}/{name}')}\n"
        '    model_platform: "tensorflow"\n  }\n}\n'
    )


_COMPOSE = f"""# docker compose up -d
services:
  serving:
    image: tensorflow/serving:{{tag}}
    command:
      - --model_config_file={BASE_PATH}/models.config
      - --model_config_file_poll_wait_seconds=5
      - --enable_batching=true
      - --batching_parameters_file={BASE_PATH}/batching.config
      - --monitoring_config_file={BASE_PATH}/monitoring.config
    ports:  # this machine only: TF Serving knows no users and no encryption
      - "127.0.0.1:8500:8500"  # gRPC
      - "127.0.0.1:8501:8501"  # REST, and the numbers for Prometheus
    volumes:
      - .:{BASE_PATH}:ro
    restart: unless-stopped
"""

_GUIDE = """# {name} in TF Serving

`docker compose up -d` in this folder starts the official image on ports 8500 (gRPC) and 8501 (REST)
of this machine. Then:

```
curl -d @request_example.json  localhost:8501/v1/models/{name}:predict
curl -d @request_bytes.json    localhost:8501/v1/models/{name}:predict
curl -d @request_classify.json localhost:8501/v1/models/{name}:classify
python grpc_example.py {name} picture.jpg
```

| signature | takes | returns |
|---|---|---|
| `serving_default` | `image`: raw pixels 0-255 at the model's size | `probabilities` |
| `serving_bytes` | `image_bytes`: JPEG or PNG files of any size | `probabilities` |
| `serving_classify` | examples with `image_bytes` or `image` | likeliest classes, scores |

The Classify API wants its signature named in the request, and the `image` of an example as one
list, row after row, of decimals (`0.0`, not `0`).

Files are decoded and resized in the graph, as cnnkit does it but for a few pixels that are rounded
to the other side. TensorFlow does not read EXIF: turn a photograph upright before it is sent. A
file that is no picture fails its request, and those that were batched with it.

## A new version, and back

Once a second the server looks for folders `{name}/2`, `{name}/3`… It loads and warms up the
highest, and only then lets go of the one before, so that no request is lost. Copy under a hidden
name first, since a folder that is half there would be loaded too:

```
cp -r NEW_BUNDLE/serving/{name}/1 {name}/.2 && mv {name}/.2 {name}/2
```

Back: `mv {name}/2 {name}/.2`. Or keep both and say which one in `models.config`, inside `config`;
it is read again every 5 seconds:

```
model_version_policy {{ specific {{ versions: 1 }} }}
```

Two versions there run side by side (`/v1/models/{name}/versions/2:predict`), to try the new one
on some requests.

## More of it

`batching.config` joins requests that come within a millisecond. Several servers behind any
balancer of HTTP or gRPC scale out: none keeps a state. `/monitoring/prometheus/metrics` on port
8501 has counts and times. The records in `{name}/1/assets.extra` are run before the first request.
"""


def _write_warmup(path: Path, name: str, row: np.ndarray, png: bytes) -> None:
    """Writes a `PredictionLog` for each signature and batch size as a TFRecord file.

    The messages are put together by hand: their Python classes are in
    `tensorflow-serving-api`, a package that pins TensorFlow for four levels of one field each.
    """
    import tensorflow as tf

    def predict(signature: str, tensor: Any, key: str) -> Callable[[int], bytes]:
        def record(size: int) -> bytes:
            batch = np.stack([tensor] * size)
            proto = tf.make_tensor_proto(batch).SerializeToString()
            entry = _field(1, key.encode()) + _field(2, proto)  # map<string, TensorProto>
            request = _field(1, _spec(name, signature)) + _field(2, entry)  # PredictRequest
            return _field(6, _field(1, request))  # PredictionLog.predict_log, .request

        return record

    def classify(size: int) -> bytes:
        example = tf.train.Example()
        example.features.feature[INPUT_BYTES].bytes_list.value.append(png)
        examples = _field(1, example.SerializeToString()) * size  # ExampleList
        request = _field(1, _spec(name, CLASSIFY)) + _field(2, _field(1, examples))
        return _field(2, _field(1, request))  # PredictionLog.classify_log, .request

    content = np.array(png, object)
    records = (predict(SIGNATURE, row, INPUT), predict(BYTES, content, INPUT_BYTES), classify)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            for size in BATCH_SIZES:
                writer.write(record(size))


def _spec(name: str, signature: str) -> bytes:
    return _field(1, name.encode()) + _field(3, signature.encode())  # ModelSpec


def _field(number: int, payload: bytes) -> bytes:
    """Returns a length-delimited field in the wire format of protocol buffers."""
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    head, rest = value & 0x7F, value >> 7
    return bytes([head | 0x80]) + _varint(rest) if rest else bytes([head])
