import shutil

import keras
import numpy as np
import pytest
from keras import layers

from cnnkit.errors import UsageError
from export import formats
from export.formats import onnx
from export.formats import trace
from export.runtime import open_model
from tests.export import corners

pytestmark = pytest.mark.export
PLACES = {
    "keras file": ("keras", "keras/model.keras"),
    "bundle": ("keras", "."),
    "tflite": ("tflite", "tflite/corners_float32.tflite"),
    "tflite-int8": ("tflite", "tflite/corners_int8.tflite"),
    "onnx": ("onnx", "onnx/corners_float32.onnx"),
    "onnx-int8": ("onnx", "onnx/corners_int8.onnx"),
    "savedmodel": ("saved_model", "serving/corners/1"),
    "served": ("saved_model", "serving/corners"),
}


@pytest.fixture(scope="module")
def want(subject):
    x, _ = corners.pictures(12, seed=7)
    return np.asarray(subject.model(x.astype("float32"), training=False))


@pytest.mark.parametrize("name", PLACES)
def test_every_kind_says_the_same_of_the_same_pictures(bundle, want, name):
    kind, place = PLACES[name]
    runnable = open_model(bundle.folder / place)
    assert (runnable.kind, runnable.input_shape) == (kind, corners.SHAPE)
    assert runnable.resize == "letterbox"
    assert runnable.labels == corners.LABELS
    assert runnable.notes == ()
    x, _ = corners.pictures(12, seed=7)
    for pixels in (x, x.astype("float32")):
        got = runnable.predict(pixels)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got.argmax(1), want.argmax(1))
        np.testing.assert_allclose(got, want, atol=0.05 if "int8" in name else 1e-4)
        if name in ("savedmodel", "served"):
            break  # each call starts a process


def test_a_run_folder(run, want):
    runnable = open_model(str(run))
    assert (runnable.kind, runnable.labels) == ("keras", corners.LABELS)
    assert runnable.path == run / "model.keras"
    np.testing.assert_allclose(
        runnable.predict(corners.pictures(12, seed=7)[0]), want, rtol=1e-6, atol=1e-6
    )


def test_the_resize_rule_comes_out_of_the_file(tmp_path):
    for name in ("tflite", "onnx"):
        path = tmp_path / f"m.{name}"
        formats.get(name).load().write(
            corners.network(end="deployable"), path, labels=["a", "b", "c"], resize="crop"
        )
        runnable = open_model(path)
        assert (runnable.resize, runnable.labels) == ("crop", ("a", "b", "c"))


def stock_tflite(model, folder):
    """What TensorFlow's converter writes, and nobody else had in hand."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(trace.save(model, folder / "s", 1)))
    path = folder / "theirs.tflite"
    path.write_bytes(converter.convert())
    return path


def stock_onnx(model, folder):
    import onnx as library

    proto = library.load(str(onnx.write(model, folder / "theirs.onnx")))
    del proto.metadata_props[:]
    library.save(proto, str(folder / "theirs.onnx"))
    return folder / "theirs.onnx"


@pytest.mark.parametrize("write", [stock_tflite, stock_onnx])
@pytest.mark.parametrize("end", ["softmax", "logits"])
def test_files_of_others(tmp_path, write, end):
    runnable = open_model(write(corners.network(end=end), tmp_path))
    assert (runnable.input_shape, runnable.labels, runnable.resize) == (
        corners.SHAPE,
        None,
        "letterbox",
    )
    assert runnable.notes[0].startswith("not a file of cnnkit: raw pixels and letterbox")
    assert ("the model ends in logits: a softmax is added" in runnable.notes) == (end == "logits")
    x, _ = corners.pictures(12, seed=7)
    want = np.asarray(corners.network(end="softmax")(x.astype("float32")))
    np.testing.assert_allclose(runnable.predict(x), want, atol=1e-5)


def test_a_keras_file_of_others(tmp_path):
    path = tmp_path / "theirs.keras"
    corners.network(end="logits").save(path)
    runnable = open_model(path)
    assert "the model ends in logits: a softmax is added" in runnable.notes
    assert any("pixel range 0-255 assumed" in note for note in runnable.notes)
    x, _ = corners.pictures(12, seed=7)
    np.testing.assert_allclose(runnable.predict(x).sum(1), 1, atol=1e-5)


def image_to_image():
    x = keras.Input((8, 8, 1))
    return keras.Model(x, layers.Conv2D(3, 3, name="c")(x))


def channels_first():
    x = keras.Input((3, 8, 8))
    return keras.Model(x, layers.Dense(3, name="d")(layers.Flatten(name="f")(x)))


@pytest.mark.parametrize("write", [stock_tflite, stock_onnx])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (image_to_image, r"not one score for each class.*\(1, 6, 6, 3\)"),
        (channels_first, r"not take pictures of a fixed size.*Received \(3, 8, 8\)"),
    ],
)
def test_files_of_others_that_are_no_classifier(tmp_path, write, make, message):
    with pytest.raises(UsageError, match=message):
        open_model(write(make(), tmp_path))


def test_a_savedmodel_of_others_says_what_is_missing(tmp_path):
    corners.network().export(tmp_path / "s", verbose=False)
    with pytest.raises(UsageError, match="size of the pictures is not stored"):
        open_model(tmp_path / "s")


@pytest.mark.parametrize("name", ["m.keras", "m.tflite", "m.onnx", "m.txt", "m"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\0\0\0\0TFL3\0\0\0\0"])
def test_files_that_are_no_model(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        open_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_places_without_a_model(tmp_path):
    with pytest.raises(UsageError, match=r"No such file or folder: .*nowhere"):
        open_model(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"No model in this folder: .*a run folder, a bundle or"):
        open_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"none")
    with pytest.raises(UsageError, match="size of the pictures is not stored"):
        open_model(tmp_path)


def test_labels_that_do_not_fit_are_refused(run, tmp_path):
    own = shutil.copytree(run, tmp_path / "run")
    x = keras.Input(corners.SHAPE)
    keras.Model(x, layers.Dense(5)(layers.Flatten()(x))).save(own / "model.keras")
    with pytest.raises(UsageError, match=r"labels beside the model.*Expected 5 labels.*Received 3"):
        open_model(own)


def test_the_keras_file_of_a_run_knows_its_labels(run):
    assert open_model(run / "model.keras").labels == corners.LABELS


def test_a_keras_file_alone_has_no_labels(run, tmp_path):
    alone = shutil.copy(run / "model.keras", tmp_path / "model.keras")
    assert open_model(alone).labels is None
