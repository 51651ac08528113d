"""Asks TF Serving over gRPC for the classes of pictures.

    pip install tensorflow-serving-api
    python grpc_example.py NAME picture.jpg more.png
    python grpc_example.py NAME picture.jpg --predict --address models.example.org:8500

NAME is the model's name in `models.config`. This file lies in every bundle beside it, and needs
nothing else of cnnkit.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

_TIMEOUT_S = 30


def predict_request(name: str, pictures: Sequence[bytes]) -> predict_pb2.PredictRequest:
    """Returns a request for the probabilities of all classes, from picture files."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = "serving_bytes"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(list(pictures), tf.string))
    return request


def pixels_request(name: str, pixels: np.ndarray) -> predict_pb2.PredictRequest:
    """Returns the same from raw pixels 0-255, `(n, height, width, channels)`."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = "serving_default"
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(pixels, tf.float32))
    return request


def classify_request(
    name: str, pictures: Sequence[bytes]
) -> classification_pb2.ClassificationRequest:
    """Returns a request for the likeliest classes with their names, from picture files."""
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = "serving_classify"
    for content in pictures:
        example = request.input.example_list.examples.add()
        example.features.feature["image_bytes"].bytes_list.value.append(content)
    return request


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the classes of each picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("pictures", metavar="PICTURE", nargs="+", type=Path)
    parser.add_argument("--predict", action="store_true", help="probabilities of all classes")
    parser.add_argument("--address", default="localhost:8500")
    args = parser.parse_args(argv)
    contents = [path.read_bytes() for path in args.pictures]
    with grpc.insecure_channel(args.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        if args.predict:
            answer = stub.Predict(predict_request(args.name, contents), timeout=_TIMEOUT_S)
            rows = tf.make_ndarray(answer.outputs["probabilities"])
            told = [" ".join(f"{p:.4f}" for p in row) for row in rows]
        else:
            answer = stub.Classify(classify_request(args.name, contents), timeout=_TIMEOUT_S)
            told = [
                ", ".join(f"{c.label} {c.score:.4f}" for c in found.classes)
                for found in answer.result.classifications
            ]
    for path, line in zip(args.pictures, told, strict=True):
        sys.stdout.write(f"{path}: {line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
