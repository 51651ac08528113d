"""TF Serving's part in the tests: a process with TensorFlow, and without Keras and cnnkit.

tensorflow_server.py FOLDER

It loads a SavedModel with the C++ loader that TF Serving links, replays the warm-up records, and
answers Predict and Classify over gRPC with the messages of `tensorflow-serving-api`, each by one
run of the signature's tensors in a C++ session, as TF Serving's `predict_util.cc` and
`classifier.cc` do. Prints `{"port": …, "warmed": {signature: batch sizes}}` as JSON, and ends with
its standard input.
"""

import collections
import ctypes
import json
import sys
from concurrent import futures
from pathlib import Path

ABSENT = ("jax", "keras", "tf_keras", "cnnkit", "export", "apps")
for name in ABSENT:
    sys.modules[name] = None

import grpc
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

CLASSIFY = "tensorflow/serving/classify"


class RefusedError(Exception):
    """What TF Serving answers with INVALID_ARGUMENT."""


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, session, signatures):
        self.session, self.signatures = session, signatures

    def run(self, name, feeds):
        signature = self.signatures[name]
        if set(feeds) != set(signature.inputs):
            raise RefusedError(f"inputs must be {sorted(signature.inputs)}")
        fetches = {key: tensor.name for key, tensor in signature.outputs.items()}
        feeds = {signature.inputs[key].name: value for key, value in feeds.items()}
        return self.session.run(fetches, feeds)

    def predict(self, request):
        name = request.model_spec.signature_name or "serving_default"
        feeds = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        answer = predict_pb2.PredictResponse()
        for key, value in self.run(name, feeds).items():
            answer.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return answer

    def classify(self, request):
        name = request.model_spec.signature_name or "serving_default"
        if self.signatures[name].method_name != CLASSIFY:
            raise RefusedError(f"Expected classification signature method_name to be {CLASSIFY}")
        examples = [e.SerializeToString() for e in request.input.example_list.examples]
        outputs = self.run(name, {"inputs": examples})
        answer = classification_pb2.ClassificationResponse()
        for classes, scores in zip(outputs["classes"], outputs["scores"], strict=True):
            row = answer.result.classifications.add()
            for label, score in zip(classes, scores, strict=True):
                row.classes.add(label=label.decode(), score=score)
        return answer

    def answered(self, method, request, context):
        try:
            return method(request)
        except (RefusedError, KeyError, ValueError, tf.errors.InvalidArgumentError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def Predict(self, request, context):  # noqa: N802
        return self.answered(self.predict, request, context)

    def Classify(self, request, context):  # noqa: N802
        return self.answered(self.classify, request, context)


def load_in_cpp(folder):
    """Loads and restores with `tensorflow::LoadSavedModel`, by the C API."""
    places = [Path(tf.sysconfig.get_lib()), Path(tf.sysconfig.get_lib()) / "python"]
    library = ctypes.CDLL(next(str(f) for p in places for f in p.glob("libtensorflow_cc.so*")))
    pointer = ctypes.c_void_p
    for function in ("TF_NewStatus", "TF_NewSessionOptions", "TF_NewGraph"):
        getattr(library, function).restype = pointer
    library.TF_Message.restype = ctypes.c_char_p
    library.TF_Message.argtypes = library.TF_GetCode.argtypes = [pointer]
    load = library.TF_LoadSessionFromSavedModel
    load.restype = pointer
    load.argtypes = [
        *(pointer, pointer, ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p), ctypes.c_int),
        *(pointer, pointer, pointer),
    ]
    status, options, graph = (
        pointer(getattr(library, f)())
        for f in ("TF_NewStatus", "TF_NewSessionOptions", "TF_NewGraph")
    )
    tags = (ctypes.c_char_p * 1)(b"serve")
    session = load(options, None, folder.encode(), tags, 1, graph, None, status)
    if library.TF_GetCode(status) or not session:
        raise SystemExit(library.TF_Message(status).decode())


def replay(service, records):
    """Runs the warm-up records, as the server does before the first request."""
    warmed = collections.defaultdict(list)
    for record in records:
        log = prediction_log_pb2.PredictionLog.FromString(record)
        kind = log.WhichOneof("log_type")
        request = getattr(log, kind).request
        answer = {"predict_log": service.predict, "classify_log": service.classify}[kind](request)
        size = (
            answer.outputs["probabilities"].tensor_shape.dim[0].size
            if kind == "predict_log"
            else len(answer.result.classifications)
        )
        warmed[request.model_spec.signature_name].append(size)
    return warmed


def main(folder):
    load_in_cpp(folder)
    warmup = tf.data.TFRecordDataset(f"{folder}/assets.extra/tf_serving_warmup_requests")
    records = list(warmup.as_numpy_iterator())
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], folder)
        service = Service(session, meta.signature_def)
        warmed = replay(service, records)
        server = grpc.server(futures.ThreadPoolExecutor(4))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        loaded = [name for name in ABSENT if sys.modules[name] is not None]
        sys.stdout.write(json.dumps({"port": port, "warmed": warmed, "loaded": loaded}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
        server.stop(None)


if __name__ == "__main__":
    main(sys.argv[1])
