"""The JSON of TF Serving's REST API: bodies of requests to pictures, probabilities to answers.

https://www.tensorflow.org/tfx/serving/api_rest, and where that leaves a choice, what the server's
`json_tensor.cc` does: the answer of Classify is `results`, numbers without a point are no floats
in an example.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apps.rest.served import Served
from export.formats.metadata import INPUT
from export.formats.metadata import OUTPUT
from export.formats.signatures import BYTES
from export.formats.signatures import CLASSES
from export.formats.signatures import CLASSIFY
from export.formats.signatures import INPUT_BYTES
from export.formats.signatures import INPUTS
from export.formats.signatures import METHOD
from export.formats.signatures import NAMES
from export.formats.signatures import SCORES
from export.formats.signatures import TOP
from export.formats.trace import SIGNATURE

# As they were sent: files and raw pixels one by one, or raw pixels all together.
Pictures = Sequence[bytes | np.ndarray] | np.ndarray
Shape = tuple[int, int, int]
_PREDICT = "tensorflow/serving/predict"
_B64 = "b64"


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        message: What is wrong with it.
        status: The HTTP status.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        pictures: Each for one row of the answer.
        answer: From probabilities and the names of the classes to the JSON of the answer.
    """

    pictures: Pictures
    answer: Callable[[np.ndarray, Sequence[str]], dict[str, Any]]


def predict(body: bytearray, shape: Shape, most: int) -> Asked:
    """Reads the body of a Predict request.

    Args:
        body: JSON with `instances` (rows) or `inputs` (columns).
        shape: (height, width, channels) of raw pixels.
        most: Largest number of pictures.

    Raises:
        RequestError: If it is anything else.
    """
    found = _object(body, shape, most)
    name = _signature(found)
    if name == CLASSIFY:
        raise RequestError(f"signature_name {CLASSIFY!r} is for :classify, not for :predict")
    key = INPUT_BYTES if name == BYTES else INPUT
    if ("instances" in found) == ("inputs" in found):
        raise RequestError("Expected either 'instances' or 'inputs'")
    if "instances" in found:
        given = _rows(found["instances"], key)
        answer = lambda y, _: {"predictions": y.tolist()}  # noqa: E731
    else:
        given = found["inputs"]
        if isinstance(given, dict) and not _is_b64(given):
            if key not in given:
                raise RequestError(f"Missing named input {key!r} in 'inputs'")
            given = given[key]
        answer = lambda y, _: {"outputs": y.tolist()}  # noqa: E731
    if not isinstance(given, list):
        raise RequestError("Expected a list: the first dimension is that of the pictures")
    _require_number(len(given), most)
    files = key == INPUT_BYTES
    return Asked(list(map(_file, given)) if files else _pixels(given, shape), answer)


def classify(body: bytearray, shape: Shape, most: int) -> Asked:
    """Reads the body of a Classify request; see `predict`."""
    found = _object(body, shape, most)
    if (name := _signature(found)) != CLASSIFY:
        raise RequestError(
            f"Expected classification signature method_name to be {METHOD}. Was: {_PREDICT}, "
            f'of the signature {name!r}. Add "signature_name": "{CLASSIFY}"'
        )
    examples, context = found.get("examples"), found.get("context", {})
    if not isinstance(examples, list) or not isinstance(context, dict):
        raise RequestError("Expected 'examples', a list of objects, and maybe 'context', an object")
    _require_number(len(examples), most)
    return Asked([_example(example, context, shape) for example in examples], _classes)


def _classes(probabilities: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    return {
        "results": [
            [[labels[k], float(row[k])] for k in order]
            for row, order in zip(probabilities, best, strict=True)
        ]
    }


def status(model: Served) -> dict[str, Any]:
    """Returns TF Serving's `GetModelStatusResponse` of a model that is ready."""
    fine = {"error_code": "OK", "error_message": ""}
    return {
        "model_version_status": [
            {"version": model.version, "state": "AVAILABLE", "status": fine},
        ]
    }


def metadata(model: Served) -> dict[str, Any]:
    """Returns TF Serving's `GetModelMetadataResponse`; tensors are named as inputs and outputs."""
    top = min(TOP, len(model.labels))
    image = {INPUT: ("DT_FLOAT", (-1, *model.input_shape))}
    probabilities = {OUTPUT: ("DT_FLOAT", (-1, len(model.labels)))}
    best = {CLASSES: ("DT_STRING", (-1, top)), SCORES: ("DT_FLOAT", (-1, top))}
    signatures = {
        SIGNATURE: _definition(image, probabilities, _PREDICT),
        BYTES: _definition({INPUT_BYTES: ("DT_STRING", (-1,))}, probabilities, _PREDICT),
        CLASSIFY: _definition({INPUTS: ("DT_STRING", (-1,))}, best, METHOD),
    }
    return {
        "model_spec": {"name": model.name, "signature_name": "", "version": model.version},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _definition(inputs: dict[str, Any], outputs: dict[str, Any], method: str) -> dict[str, Any]:
    def tensors(some: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {
                "name": name,
                "dtype": dtype,
                "tensor_shape": {
                    "dim": [{"size": str(size), "name": ""} for size in shape],
                    "unknown_rank": False,
                },
            }
            for name, (dtype, shape) in some.items()
        }

    return {"inputs": tensors(inputs), "outputs": tensors(outputs), "method_name": method}


def _object(body: bytearray, shape: Shape, most: int) -> dict[str, Any]:
    # In memory, an empty list is twenty times as long as in JSON: none may come in millions.
    if body.count(b"[") + body.count(b"{") > 16 + most * (2 + shape[0] * (1 + shape[1])):
        raise RequestError("More lists and objects than the largest request needs", 413)
    try:
        found = json.loads(body)
    except RecursionError:
        raise RequestError("JSON Parse error: nested too deeply") from None
    except ValueError as error:  # also bytes that are no text, and numbers of thousands of digits
        raise RequestError(f"JSON Parse error: {error}") from None
    if not isinstance(found, dict):
        raise RequestError("The body is not a JSON object")
    return found


def _signature(found: dict[str, Any]) -> str:
    name = found.get("signature_name") or SIGNATURE
    if name not in NAMES:
        raise RequestError(f"Serving signature name {_short(name)} not found in signature def")
    return str(name)


def _require_number(count: int, most: int) -> None:
    if count == 0:
        raise RequestError("There is no picture in the request")
    if count > most:
        raise RequestError(f"{count} pictures in one request, the limit is {most}", 413)


def _rows(instances: Any, key: str) -> list[Any]:
    """Returns the values of the one input, which each row may also give by its name."""
    if not isinstance(instances, list):
        raise RequestError("Expected 'instances' to be a list")
    objects = [isinstance(row, dict) and not _is_b64(row) for row in instances]
    if not any(objects):
        return instances
    if not all(objects) or any(set(row) != {key} for row in instances):
        raise RequestError(f"Each object in 'instances' must have the key {key!r} and no other")
    return [row[key] for row in instances]


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {_B64} and isinstance(value[_B64], str)


def _file(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not _is_b64(value):
        raise RequestError(f'Expected {{"b64": "…"}} for a picture file. Received {_short(value)}')
    text = value[_B64]
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"Unable to base64 decode: {error}") from None


def _pixels(values: list[Any], shape: Shape) -> np.ndarray:
    wanted = f"(n, {', '.join(map(str, shape))})"
    try:
        # As objects, since an array of texts is as large as if all were as long as the longest.
        found = np.asarray(values, object)
    except (ValueError, RecursionError):
        raise RequestError(f"Expected lists of equal lengths, of shape {wanted}") from None
    if found.shape[1:] != shape:
        raise RequestError(f"Expected shape {wanted}. Received {found.shape}")
    if not set(map(type, found.ravel().tolist())) <= {int, float}:
        raise RequestError(f"Expected numbers, of shape {wanted}")
    return _finite(found)


def _finite(values: Any) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            pixels = np.asarray(values).astype(np.float32)
    except OverflowError:  # an integer
        pixels = np.array(np.inf)
    if not np.isfinite(pixels).all():
        raise RequestError("Expected finite float32 numbers. Received NaN or infinity")
    return pixels


def _example(example: Any, context: dict[str, Any], shape: Shape) -> bytes | np.ndarray:
    if not isinstance(example, dict):
        raise RequestError(f"An example must be a JSON object. Received {_short(example)}")
    features = {**context, **example}
    if INPUT_BYTES in features:
        value = features[INPUT_BYTES]
        if not isinstance(value, list):
            value = [value]
        if len(value) != 1:
            raise RequestError(f"Expected one value of {INPUT_BYTES!r}. Received {len(value)}")
        return _file(value[0])
    values, wanted = features.get(INPUT), int(np.prod(shape))
    if not isinstance(values, list):
        raise RequestError(f"An example must have {INPUT_BYTES!r}, or {INPUT!r} with a list")
    if not all(type(value) is float for value in values):
        raise RequestError(
            f"Expected {INPUT!r} as one list of numbers with a decimal point (0.0, not 0): "
            "others are integers in an example"
        )
    if len(values) != wanted:
        raise RequestError(f"Expected {wanted} numbers in {INPUT!r}. Received {len(values)}")
    return _finite(values).reshape(shape)


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}…"
