"""The signatures of a SavedModel that take picture files, and the one that answers with names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnnkit import files
from cnnkit.types import Tensor
from export.formats.decoding import decode
from export.formats.metadata import INPUT
from export.formats.metadata import OUTPUT
from export.formats.metadata import Metadata
from export.formats.trace import SIGNATURE
from export.formats.trace import Endpoints

BYTES = "serving_bytes"
CLASSIFY = "serving_classify"
NAMES = (SIGNATURE, BYTES, CLASSIFY)
# TF Serving's JSON takes Base64 for tensors with this end of the name.
INPUT_BYTES = "image_bytes"
# What TF Serving's Classify API prescribes, as `tf.compat.v1.saved_model` has it.
METHOD = "tensorflow/serving/classify"
INPUTS, CLASSES, SCORES = "inputs", "classes", "scores"
TOP = 5


def of(described: Metadata, output_shape: tuple[int | None, ...]) -> Endpoints | None:
    """Returns what makes the signatures of a model, or None if it is no classifier of pictures.

    `serving_bytes` takes `image_bytes`, JPEG or PNG files, and returns `probabilities`.
    `serving_classify` is for TF Serving's Classify API: it takes `inputs`, serialized
    `tf.train.Example`s that have either `image_bytes` or `image` (raw pixels in rows, as floats),
    and returns `classes` and `scores` of the likeliest classes.
    """
    shape = described.input_shape
    if not described.resize or len(shape) != 3 or shape[2] not in (1, 3) or len(output_shape) != 2:
        return None
    image_size, channels, resize = (shape[0], shape[1]), shape[2], described.resize
    labels = labels_of(described.labels, output_shape[1] or 0)

    def endpoints(inference: Any) -> dict[str, Any]:
        import tensorflow as tf

        picture = tf.TensorSpec(shape, tf.float32)

        def decoded(content: Tensor) -> Tensor:
            return decode(content, image_size, channels, resize)

        def given(example: tuple[Tensor, Tensor]) -> Tensor:
            content, pixels = example
            return tf.cond(
                tf.strings.length(content) > 0,
                lambda: decoded(content),
                lambda: tf.reshape(pixels, shape),
            )

        def from_bytes(image_bytes: Tensor) -> dict[str, Tensor]:
            x = tf.map_fn(decoded, image_bytes, fn_output_signature=picture)
            return {OUTPUT: inference(x)[OUTPUT]}

        def classify(inputs: Tensor) -> dict[str, Tensor]:
            features = {
                INPUT_BYTES: tf.io.FixedLenFeature((), tf.string, default_value=""),
                INPUT: tf.io.RaggedFeature(tf.float32),
            }
            parsed = tf.io.parse_example(inputs, features)
            examples = (parsed[INPUT_BYTES], parsed[INPUT])
            x = tf.map_fn(given, examples, fn_output_signature=picture)
            scores, places = tf.math.top_k(inference(x)[OUTPUT], min(TOP, len(labels)))
            return {CLASSES: tf.gather(tf.constant(labels), places), SCORES: scores}

        return {
            BYTES: (from_bytes, tf.TensorSpec((None,), tf.string, name=INPUT_BYTES)),
            CLASSIFY: (classify, tf.TensorSpec((None,), tf.string, name=INPUTS)),
        }

    return endpoints


def labels_of(labels: tuple[str, ...] | None, classes: int) -> tuple[str, ...]:
    """Returns the names of the classes; their numbers if nobody knows them."""
    return labels or tuple(map(str, range(classes)))


def mark_classify(folder: Path) -> None:
    """Says that `serving_classify` is for the Classify API, which TensorFlow 2 cannot write."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    proto = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    proto.meta_graphs[0].signature_def[CLASSIFY].method_name = METHOD
    with files.replacing(path) as partial:
        partial.write_bytes(proto.SerializeToString(deterministic=True))
