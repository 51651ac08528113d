"""The contract with TF Serving, whose binary is not here: see `tensorflow_server.py`."""

import base64
import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry
from tensorflow_serving.apis import classification_pb2
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from cnnkit.data import RESIZE_RULES
from cnnkit.data import decode
from export.formats import decoding
from export.formats import grpc_example
from export.formats import saved_model
from export.formats import serving
from export.formats import signatures
from tests.export import corners

pytestmark = pytest.mark.export
SERVER = Path(__file__).with_name("tensorflow_server.py")
NAME = "corners"


@pytest.fixture(scope="module")
def model():
    return corners.network(end="deployable")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A bundle's folder `serving`."""
    folder = tmp_path_factory.mktemp("serving")
    saved_model.write(model, folder / NAME / "1", labels=corners.LABELS, resize="letterbox")
    serving.write(folder, NAME, corners.pictures(1)[0][0])
    return folder


@pytest.fixture(scope="module")
def told(folder):
    """What the server says when it is ready; it runs until the tests are done."""
    command = [sys.executable, "-I", str(SERVER), str(folder / NAME / "1")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        yield json.loads(process.stdout.readline())
        process.stdin.close()


@pytest.fixture(scope="module")
def stub(told):
    with grpc.insecure_channel(f"127.0.0.1:{told['port']}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def meta_graph(folder):
    content = (folder / NAME / "1" / "saved_model.pb").read_bytes()
    (graph,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    return graph


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def values(tree):
    """Returns a JSON value with TF Serving's `{"b64": …}` as bytes."""
    if isinstance(tree, list):
        return [values(entry) for entry in tree]
    return base64.b64decode(tree["b64"]) if isinstance(tree, dict) else tree


def predict_message(body, graph):
    """Returns the message that TF Serving makes of the JSON of a Predict request in rows.

    As https://www.tensorflow.org/tfx/serving/api_rest says: one input, so that each instance is
    its value, of the type in the signature.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = NAME
    request.model_spec.signature_name = body.get("signature_name", "serving_default")
    ((name, info),) = graph.signature_def[request.model_spec.signature_name].inputs.items()
    tensor = tf.make_tensor_proto(values(body["instances"]), info.dtype)
    request.inputs[name].CopyFrom(tensor)
    return request


def classify_message(body):
    """Returns that of a Classify request: decimals are floats, other numbers are integers."""
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = NAME
    request.model_spec.signature_name = body.get("signature_name", "")
    for example in body["examples"]:
        features = request.input.example_list.examples.add().features.feature
        for name, value in example.items():
            entries = values(value if isinstance(value, list) else [value])
            if isinstance(entries[0], bytes):
                features[name].bytes_list.value.extend(entries)
            elif any(isinstance(entry, float) for entry in entries):
                features[name].float_list.value.extend(entries)
            else:
                features[name].int64_list.value.extend(entries)
    return request


def test_every_signature_can_be_served(meta_graph):
    is_valid = tf.compat.v1.saved_model.signature_def_utils.is_valid_signature
    kinds = {
        name: (is_valid(s), s.method_name, set(s.inputs), set(s.outputs))
        for name, s in meta_graph.signature_def.items()
        if not name.startswith("__")
    }
    predict, classify = "tensorflow/serving/predict", tf.compat.v1.saved_model.CLASSIFY_METHOD_NAME
    assert kinds == {
        "serving_default": (True, predict, {"image"}, {"probabilities"}),
        "serving_bytes": (True, predict, {"image_bytes"}, {"probabilities"}),
        "serving_classify": (True, classify, {"inputs"}, {"classes", "scores"}),
    }
    for name in signatures.NAMES[1:]:
        (tensor,) = meta_graph.signature_def[name].inputs.values()
        assert [d.size for d in tensor.tensor_shape.dim] == [-1]


def test_every_op_is_one_of_tensorflow(meta_graph):
    nodes = list(meta_graph.graph_def.node)
    for function in meta_graph.graph_def.library.function:
        nodes += function.node_def
    used = {node.op for node in nodes}
    assert {op for op in used if op_def_registry.get(op) is None} == set()
    assert {"DecodeImage", "ScaleAndTranslate", "ParseExampleV2"} <= used


def test_the_cpp_loader_and_the_warm_up(told):
    assert told["loaded"] == []
    assert told["warmed"] == {name: list(serving.BATCH_SIZES) for name in signatures.NAMES}


@pytest.mark.parametrize("n", [1, 3, 32])
def test_pixels_files_and_examples_get_the_same_answer(stub, model, n):
    x, _ = corners.pictures(n, seed=n)
    want = np.asarray(model(x.astype("float32")))
    contents = [encoded(picture) for picture in x]
    for request in (
        grpc_example.pixels_request(NAME, x),
        grpc_example.predict_request(NAME, contents),
    ):
        got = tf.make_ndarray(stub.Predict(request).outputs["probabilities"])
        np.testing.assert_allclose(got, want, atol=1e-5)
    request = grpc_example.classify_request(NAME, contents)
    for k in range(0, n, 2):  # the others stay files
        example = request.input.example_list.examples[k].features.feature
        del example["image_bytes"]
        example["image"].float_list.value.extend(x[k].ravel())
    found = stub.Classify(request).result.classifications
    for row, p in zip(found, want, strict=True):
        order = np.argsort(-p)
        assert [c.label for c in row.classes] == [corners.LABELS[k] for k in order]
        np.testing.assert_allclose([c.score for c in row.classes], p[order], atol=1e-5)


def test_the_request_examples(folder, stub, meta_graph, model):
    x = corners.pictures(1)[0]
    want = np.asarray(model(x.astype("float32")))
    for name in ("request_example", "request_bytes"):
        body = json.loads((folder / f"{name}.json").read_text("utf-8"))
        answer = stub.Predict(predict_message(body, meta_graph)).outputs["probabilities"]
        np.testing.assert_allclose(tf.make_ndarray(answer), want, atol=1e-5)
    body = json.loads((folder / "request_classify.json").read_text("utf-8"))
    (row,) = stub.Classify(classify_message(body)).result.classifications
    assert row.classes[0].label == corners.LABELS[want.argmax()]


def test_examples_with_decimals(stub, model):
    """Numbers without a point are integers in TF Serving's JSON, and no pixels."""
    x = corners.pictures(1)[0]
    body = {"signature_name": "serving_classify", "examples": [{"image": x.ravel().tolist()}]}
    with pytest.raises(grpc.RpcError, match="Data types don't match"):
        stub.Classify(classify_message(body))
    body["examples"][0]["image"] = x.ravel().astype(float).tolist()
    (row,) = stub.Classify(classify_message(body)).result.classifications
    assert row.classes[0].label == corners.LABELS[np.asarray(model(x.astype("float32"))).argmax()]


@pytest.mark.parametrize(
    "request_",
    [
        grpc_example.predict_request(NAME, [b"no picture"]),
        grpc_example.predict_request(NAME, [encoded(corners.pictures(1)[0][0])[:40]]),
        grpc_example.pixels_request(NAME, np.zeros((1, 9, 8, 1))),
        grpc_example.classify_request(NAME, [b""]),
    ],
    ids=["text", "truncated", "shape", "nothing"],
)
def test_a_bad_request_is_the_fault_of_who_sent_it(stub, request_):
    method = stub.Predict if isinstance(request_, predict_pb2.PredictRequest) else stub.Classify
    with pytest.raises(grpc.RpcError) as error:
        method(request_)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_the_client_of_the_bundle(folder, told, model, tmp_path, capsys):
    x, _ = corners.pictures(2, seed=5)
    paths = [tmp_path / f"{k}.png" for k in range(2)]
    for path, picture in zip(paths, x, strict=True):
        path.write_bytes(encoded(picture))
    client = runpy.run_path(str(folder / "grpc_example.py"))["main"]
    want = np.asarray(model(x.astype("float32")))
    for option in ([], ["--predict"]):
        arguments = [NAME, *map(str, paths), "--address", f"127.0.0.1:{told['port']}"]
        assert client([*arguments, *option]) == 0
        for path, p, line in zip(paths, want, capsys.readouterr().out.splitlines(), strict=True):
            k = p.argmax()
            first = " ".join(f"{q:.4f}" for q in p) if option else f"{corners.LABELS[k]} {p[k]:.4f}"
            assert line.startswith(f"{path}: {first}")


def test_the_configuration(folder):
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((folder / "models.config").read_text("utf-8"), config)
    (row,) = config.model_config_list.config
    assert (row.name, row.base_path, row.model_platform) == (NAME, f"/models/{NAME}", "tensorflow")
    guide = (folder / "README.md").read_text("utf-8")
    (policy,) = re.findall("^model_version_policy.*$", guide, re.MULTILINE)
    text_format.Parse(policy, row)
    assert list(row.model_version_policy.specific.versions) == [1]
    (service,) = yaml.safe_load((folder / "compose.yaml").read_text("utf-8"))["services"].values()
    assert service["image"] == f"tensorflow/serving:{tf.__version__}"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    named = re.findall(r"=/models/([\w.]+)", " ".join(service["command"]))
    named += re.findall(r"@([\w.]+)", guide) + re.findall(r"python ([\w.]+)", guide)
    assert named
    assert all((folder / file).is_file() for file in named)


def kinds_of(rgba):
    """Returns files of a picture in every mode that matters."""
    picture = Image.fromarray(rgba, "RGBA").convert("RGB")
    grey = np.asarray(picture.convert("L"))
    rgb, files = np.asarray(picture), {}
    files["rgb"] = encoded(rgb)
    files["grey"] = encoded(grey[..., None])
    files["transparent"] = encoded(rgba)
    for name, image in (
        ("grey, transparent", Image.fromarray(rgba, "RGBA").convert("LA")),
        ("palette", picture.quantize(16)),
        ("palette, transparent", Image.fromarray(rgba, "RGBA").quantize(16)),
        ("black and white", picture.convert("1")),
        ("16 bits", Image.fromarray(grey.astype(np.uint16) * 256 + 255 - grey)),
    ):
        file = io.BytesIO()
        image.save(file, "PNG")
        files[name] = file.getvalue()
    files["JPEG"] = encoded(rgb, "JPEG", quality=90)
    files["JPEG, fine colours"] = encoded(rgb, "JPEG", quality=90, subsampling=0)
    files["JPEG, progressive"] = encoded(rgb, "JPEG", progressive=True)
    files["JPEG, grey"] = encoded(grey[..., None], "JPEG")
    file = io.BytesIO()
    picture.convert("CMYK").save(file, "JPEG")
    return {**files, "JPEG, CMYK": file.getvalue()}


@pytest.fixture(scope="module", params=[(1, "letterbox"), (3, "crop"), (3, "squash")], ids=str)
def in_graph(request):
    channels, rule = request.param

    def build(size):
        traced = tf.function(lambda content: decoding.decode(content, size, channels, rule))
        return traced.get_concrete_function(tf.TensorSpec((), tf.string))

    return build, channels, rule


def test_files_of_the_right_size_are_decoded_exactly(in_graph):
    build, channels, rule = in_graph
    rgba = np.random.default_rng(0).integers(0, 256, (17, 22, 4)).astype(np.uint8)
    decoder = build((17, 22))
    for name, content in kinds_of(rgba).items():
        want = decode(content, (17, 22), channels, rule)
        np.testing.assert_array_equal(decoder(tf.constant(content)), want, name)


def test_files_of_other_sizes_are_resized_but_for_rounding(in_graph):
    build, channels, rule = in_graph
    decoder, off = build((16, 24)), []
    for shape in ((17, 22), (60, 90), (5, 3), (300, 201), (1, 40)):
        rgba = np.random.default_rng(0).integers(0, 256, (*shape, 4)).astype(np.uint8)
        for content in kinds_of(rgba).values():
            want = decode(content, (16, 24), channels, rule).astype(int)
            off.append(np.abs(decoder(tf.constant(content)).numpy() - want))
    assert np.max(off) <= 2
    assert np.mean(np.array(off) > 0) < 0.1


def test_what_the_graph_does_not_do():
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    one = tuple(map(int, rgb[0, 0]))
    whitened = rgb.copy()
    whitened[0, 0] = 255
    for content, want in (
        (encoded(rgb, exif=exif), np.rot90(rgb, -1)),
        (encoded(rgb, transparency=one), whitened),
    ):
        got = decoding.decode(tf.constant(content), (8, 8), 3, "squash").numpy()
        np.testing.assert_array_equal(got, rgb)
        np.testing.assert_array_equal(decode(content, (8, 8), 3, "squash"), want)


def test_every_resize_rule_is_there():
    assert set(decoding._RULES) == set(RESIZE_RULES)
