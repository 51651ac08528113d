"""MediaPipe's own ImageClassifier takes the file as it is, and says what our model says."""

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from sklearn.model_selection import train_test_split

from cnnkit.data import arrays
from cnnkit.errors import UsageError
from cnnkit.training.predict import predict_keras
from export import formats
from export.formats import flatbuffer
from export.formats import mediapipe
from export.formats import micro
from export.formats import tflite
from export.formats import tflite_metadata
from export.judging import Pictures
from export.judging import judge
from export.limits import Gates
from export.quantization.twin import Twin
from tests.export import networks

pytestmark = pytest.mark.export
FORMAT = formats.get("tflite-mediapipe")
HELD_OUT = 360
# Names as users choose them, and how a list with one name a line can have them.
NAMES = {
    "one, or two": "one, or two",
    "zwei\nZeilen": "zwei Zeilen",
    "猫 Ångström 🐈": "猫 Ångström 🐈",
    '"quoted"': '"quoted"',
    "": " ",
    "  spaces  ": "  spaces  ",
    "long" * 100: "long" * 100,
    "a\u2028b\x85c\r\nd": "a b c d",
    "<b>&amp;</b>": "<b>&amp;</b>",
    "7\0\t8\x1b": "7 8 ",
}
# Reads metadata by the schema that MediaPipe brings; the package itself takes seconds to import.
METADATA = """
import importlib.util, json, sys
from pathlib import Path

[package] = importlib.util.find_spec("mediapipe").submodule_search_locations
place = Path(package, "tasks", "metadata", "metadata_schema_py_generated.py")
spec = importlib.util.spec_from_file_location("schema", place)
schema = importlib.util.module_from_spec(spec)
spec.loader.exec_module(schema)
content = open(sys.argv[1], "rb").read()
assert schema.ModelMetadata.ModelMetadataBufferHasIdentifier(content, 0)
model = schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAs(content, 0))

def plain(value):
    if isinstance(value, list):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__dict__"):
        return {k: plain(v) for k, v in vars(value).items() if v is not None}
    return value.decode() if isinstance(value, bytes) else value

print(json.dumps(plain(model)))
"""


def solved(x, y):
    """Returns a network for digits without training: least squares on its features."""
    keras.utils.set_random_seed(1)
    image = keras.Input(x.shape[1:], name="image")
    h = layers.Rescaling(1 / 255, name="pixels")(image)
    h = layers.Conv2D(16, 3, activation="relu", padding="same", name="first")(h)
    h = layers.Conv2D(24, 3, activation="relu", padding="same", name="second")(h)
    h = layers.Flatten(name="flat")(layers.AveragePooling2D(2, name="pool")(h))
    model = keras.Model(
        image, layers.Softmax(name="probabilities")(layers.Dense(10, name="logits")(h))
    )
    features = np.asarray(keras.Model(image, h)(x.astype("float32")))
    features = np.c_[features, np.ones(len(x))]
    ridge = 1e-3 * np.square(features).mean() * len(x) * np.eye(features.shape[1])
    weights = np.linalg.solve(features.T @ features + ridge, features.T @ (10 * np.eye(10)[y]))
    model.get_layer("logits").set_weights([weights[:-1], weights[-1]])
    return model


@pytest.fixture(scope="module")
def digits():
    """A network for the built-in digits, calibration pictures, and those held out with labels."""
    source = arrays.READERS["digits"]("digits")
    x, y = source.x, np.asarray(source.y)
    x, held, y, truth = train_test_split(x, y, test_size=HELD_OUT, stratify=y, random_state=0)
    return solved(x, y), x[:200], held, truth


@pytest.fixture(scope="module")
def file(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mediapipe") / "für 猫"  # as users call their folders
    model, calibration, *_ = digits
    return mediapipe.write(
        model,
        folder / FORMAT.path("digits"),
        calibration=calibration,
        labels=list(NAMES),
        resize="letterbox",
    )


def test_every_held_out_digit_gets_our_class_and_its_name(digits, file, mediapipe_python):
    model, _, x, truth = digits
    assert len(x) == HELD_OUT
    found = mediapipe.classify(file, x, mediapipe_python)
    want = predict_keras(model, x)
    assert (want.argmax(1) == truth).mean() > 0.98
    np.testing.assert_array_equal(found.first, want.argmax(1))
    assert found.labels == list(NAMES.values())
    got = mediapipe.run(file, x)
    np.testing.assert_array_equal(found.first, got.argmax(1))
    np.testing.assert_allclose(found.scores, got, atol=1 / 256)


def test_the_file_computes_what_the_int8_file_does(digits, file, tmp_path):
    model, calibration, x, _ = digits
    plain = tflite.write(model, tmp_path / "m.tflite", variant="int8", calibration=calibration)
    np.testing.assert_array_equal(mediapipe.run(file, x), tflite.run(plain, x))
    np.testing.assert_array_equal(tflite.run(file, np.repeat(x, 3, -1)), tflite.run(plain, x))


def test_our_own_metadata_stays(file):
    found = mediapipe.metadata(file)
    assert found.labels == tuple(NAMES)
    assert (found.input_shape, found.resize) == ((8, 8, 3), "letterbox")


def test_the_labels_are_stored_behind_the_model(file):
    with zipfile.ZipFile(file) as archive:
        (entry,) = archive.infolist()
        assert (entry.filename, entry.compress_type) == ("labels.txt", zipfile.ZIP_STORED)
        assert archive.read(entry).decode() == "".join(f"{name}\n" for name in NAMES.values())
        assert archive.testzip() is None


def test_the_metadata_are_as_the_schema_has_them(file, mediapipe_python, tmp_path):
    model = flatbuffer.parse(file.read_bytes())
    (entry,) = [e for e in model.metadata if e.name.decode() == tflite_metadata.KEY]
    (tmp_path / "told").write_bytes(bytes(model.buffers[entry.buffer].data))
    command = [mediapipe_python, "-I", "-c", METADATA, str(tmp_path / "told")]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert told["name"] == "digits_mediapipe"
    assert told["version"] == mediapipe.metadata(file).version
    (graph,) = told["subgraphMetadata"]
    (image,), (scores,) = graph["inputTensorMetadata"], graph["outputTensorMetadata"]
    assert (image["name"], scores["name"]) == ("image", "probabilities")
    assert image["content"]["contentPropertiesType"] == 2  # ImageProperties
    assert image["content"]["contentProperties"]["colorSpace"] == 1  # RGB
    assert scores["content"]["contentPropertiesType"] == 1  # FeatureProperties
    (unit,) = image["processUnits"]
    assert (unit["optionsType"], unit["options"]) == (1, {"mean": [0.0], "std": [1.0]})
    assert (image["stats"], scores["stats"]) == (
        {"max": [255.0], "min": [0.0]},
        {"max": [1.0], "min": [0.0]},
    )
    (labels,) = scores["associatedFiles"]
    assert (labels["name"], labels["type"]) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS


def test_colours_become_the_grey_of_pillow(file):
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.interpreter import OpResolverType

    runner = Interpreter(
        model_content=file.read_bytes(),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    runner.allocate_tensors()
    (i,) = runner.get_input_details()
    grey = runner._get_ops_details()[1]["outputs"][0]  # the first op makes int8 of uint8

    def seen(x):
        runner.set_tensor(i["index"], x[None])
        runner.invoke()
        return runner.get_tensor(grey)[0, ..., 0].astype(int) + 128

    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (100, 8, 8, 3)).astype(np.uint8)
    for k, corner in enumerate(np.ndindex(2, 2, 2)):
        colours[0, 0, k] = 255 * np.array(corner)
    away = [seen(x) - np.asarray(Image.fromarray(x).convert("L"), int) for x in colours]
    assert np.abs(away).max() <= 1
    assert np.mean(np.array(away) == 0) > 0.97
    levels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    for x in levels:
        np.testing.assert_array_equal(seen(np.repeat(x[..., None], 3, -1)), x)


def test_tflite_micro_runs_it_too(file):
    x = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8)
    y, _ = micro.interpret(file, x)
    np.testing.assert_allclose(y, tflite.predictor(file, reference=True)(x), atol=1 / 256)


def test_a_network_for_colours_without_labels(mediapipe_python, tmp_path):
    model, x = networks.tiny(channels=3), networks.pictures(16, (8, 8, 3))
    path = mediapipe.write(model, tmp_path / "m.tflite", calibration=x)
    assert not zipfile.is_zipfile(path)
    found = mediapipe.classify(path, x, mediapipe_python)
    np.testing.assert_allclose(found.scores, mediapipe.run(path, x), atol=1 / 256)


def test_ranges_that_were_learned_in_training(digits, tmp_path):
    model, calibration, x, _ = digits
    twin = Twin(model, pixels=True)
    twin.observe(calibration.astype("float32"))
    trained, ranges = twin.finalize()
    path = mediapipe.write(trained, tmp_path / "rgb.tflite", ranges=ranges)
    plain = tflite.write(trained, tmp_path / "m.tflite", variant="int8", ranges=ranges)
    np.testing.assert_array_equal(mediapipe.run(path, x), tflite.run(plain, x))


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model, x = networks.tiny(channels=1), networks.pictures(8, (8, 8, 1))
    once, twice = (
        mediapipe.write(model, tmp_path / name, calibration=x, labels=["a", "b", "c"])
        for name in ("m.tflite", "again/m.tflite")
    )
    assert once.read_bytes() == twice.read_bytes()


def test_pictures_of_four_channels_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"takes pictures only.*1 or 3.*\(8, 8, 4\)"):
        mediapipe.write(networks.tiny(), tmp_path / "m", calibration=networks.pictures(4))
    assert list(tmp_path.iterdir()) == []


def test_the_verdict_is_mediapipes_too(digits, file, mediapipe_python, monkeypatch):
    monkeypatch.setenv(mediapipe.PYTHON, mediapipe_python)
    model, _, x, truth = digits
    pictures = Pictures(x[:20], truth[:20], predict_keras(model, x[:20]))
    judged = judge(FORMAT, file.parents[1], "digits", pictures, Gates())
    assert judged.ok
    (note,) = judged.opinions
    assert note.startswith("run in MediaPipe ")
    assert "the class of LiteRT on 20 of 20 pictures" in note
    x = x[:20]
    with pytest.raises(UsageError, match=r"do not agree.*within 0.02.*a difference of"):
        mediapipe.confirm(file, x, mediapipe.run(file, x)[::-1])


def test_names_that_are_not_ours_are_refused(file, mediapipe_python, monkeypatch, tmp_path):
    monkeypatch.setenv(mediapipe.PYTHON, mediapipe_python)
    content = file.read_bytes()
    (tmp_path / "m").write_bytes(content.replace(b"one, or two\n", b"two, or one\n"))
    x = np.zeros((1, 8, 8, 1), np.uint8)
    with pytest.raises(UsageError, match="names the classes otherwise"):
        mediapipe.confirm(tmp_path / "m", x, mediapipe.run(file, x))


def test_names_that_are_changed_are_told(file):
    (note,) = mediapipe.notes(file)
    assert note.startswith(
        "names that MediaPipe has on one line: 'zwei\\nZeilen' is 'zwei Zeilen', "
    )
    assert note.endswith(r"'7\x00\t8\x1b' is '7 8 '")


def test_names_that_are_the_same_on_one_line_are_refused(tmp_path):
    names, x = ["a\nb", "a\rb", "c"], networks.pictures(4, (8, 8, 1))
    with pytest.raises(UsageError, match=r"tell the classes apart.*'a\\nb', 'a\\rb'.*[Rr]ename"):
        mediapipe.write(
            networks.tiny(channels=1), tmp_path / "m.tflite", calibration=x, labels=names
        )
    assert list(tmp_path.iterdir()) == []


def test_without_mediapipe_the_note_says_so(file, monkeypatch):
    monkeypatch.delenv(mediapipe.PYTHON, raising=False)
    monkeypatch.setitem(sys.modules, "mediapipe", None)  # as if it were not installed
    x = np.zeros((1, 8, 8, 1), np.uint8)
    (note,) = mediapipe.confirm(file, x, mediapipe.run(file, x))["opinions"]
    assert note == "run in LiteRT: MediaPipe is not installed (`pip install mediapipe`)"


def test_a_python_that_is_none(file, monkeypatch, tmp_path):
    monkeypatch.setenv(mediapipe.PYTHON, str(tmp_path / "python"))
    x = np.zeros((1, 8, 8, 1), np.uint8)
    with pytest.raises(UsageError, match="`CNNKIT_MEDIAPIPE` must name a Python"):
        mediapipe.confirm(file, x, mediapipe.run(file, x))


def test_a_file_that_mediapipe_refuses(digits, mediapipe_python, tmp_path):
    model, calibration, x, _ = digits
    path = tflite.write(model, tmp_path / "m.tflite", variant="int8", calibration=calibration)
    with pytest.raises(UsageError, match="MediaPipe cannot run this file"):
        mediapipe.classify(path, x[:1], mediapipe_python)
