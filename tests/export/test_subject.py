import shutil

import keras
import numpy as np
import pytest
from keras import layers

from cnnkit import data
from cnnkit.errors import DataError
from cnnkit.errors import UsageError
from cnnkit.training.recipe import resolve
from export.subject import load_dataset
from export.subject import open_judge
from export.subject import open_subject
from export.subject import safe_name
from tests.export import corners

pytestmark = pytest.mark.export
SPLITS = ("train", "val", "test")


def same_pictures(a, b):
    return all(a.ids(split) == b.ids(split) for split in SPLITS)


@pytest.fixture
def theirs(tmp_path):
    path = tmp_path / "my net.keras"
    corners.network("0-1", "logits").save(path)
    return path


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_run_and_bundle_know_their_data(subject, bundle, run, kind, npz):
    place = {"run": run, "bundle": bundle.folder}[kind]
    for given in (None, npz, str(npz)):
        opened = open_subject(place, given)
        assert opened.labels == corners.LABELS
        assert same_pictures(opened.dataset, subject.dataset)
        assert opened.recipe == subject.recipe
        assert opened.resize == "letterbox"
        assert (opened.notes, opened.origin) == ((), place)
        assert opened.name == {"run": "r", "bundle": "corners"}[kind]
        x, _ = corners.pictures(4)
        np.testing.assert_allclose(
            opened.model(x.astype("float32")), subject.model(x.astype("float32")), rtol=1e-6
        )


def test_other_data_of_the_same_classes_take_their_place(run, tmp_path):
    other = corners.save(tmp_path / "other.npz", 90)
    opened = open_subject(run, other)
    assert opened.dataset.manifest.path == str(other)
    assert sum(len(opened.dataset.ids(split)) for split in SPLITS) == 90


def test_the_pixel_range_of_a_file_can_be_said(theirs, run):
    x = corners.pictures(4)[0].astype("float32")
    opened = open_subject(theirs, sets=["data.pixel_range=-1-1"])
    assert opened.notes == ("the model ends in logits: a softmax is added",)
    want = keras.ops.softmax(keras.models.load_model(theirs)(x / 127.5 - 1))
    np.testing.assert_allclose(opened.model(x), want, atol=1e-5)
    recipe = resolve(sets=["data.pixel_range=-1-1"]).recipe
    np.testing.assert_array_equal(open_subject(theirs, recipe=recipe).model(x), opened.model(x))
    # What is in a run folder takes raw pixels, however its recipe came about.
    changed = open_subject(run, sets=["data.pixel_range=0-1"])
    np.testing.assert_array_equal(changed.model(x), open_subject(run).model(x))


def test_a_keras_file_with_and_without_data(theirs, npz):
    opened = open_subject(theirs, npz)
    assert (opened.name, opened.labels, opened.origin) == ("my_net", corners.LABELS, theirs)
    assert any(note.startswith("pixel range 0-1 measured") for note in opened.notes)
    x, y = opened.dataset.arrays("test")
    assert np.mean(np.asarray(opened.model(x.astype("float32"))).argmax(1) == y) > 0.9
    alone = open_subject(theirs)
    assert (alone.labels, alone.dataset) == (None, None)
    assert "the model ends in logits: a softmax is added" in alone.notes


def test_the_recipe_says_how_data_are_split_and_resized(theirs, npz):
    recipe = resolve(data={"split": [0.5, 0.2, 0.3], "resize": "crop"}).recipe
    opened = open_subject(theirs, npz, recipe)
    assert [len(opened.dataset.ids(split)) for split in SPLITS] == [75, 30, 45]
    assert (opened.resize, opened.dataset.resize) == ("crop", "crop")


def test_pictures_come_at_the_size_of_the_model(npz):
    x = keras.Input((12, 10, 3))
    model = keras.Model(x, layers.Dense(3)(layers.Flatten()(x)))
    assert open_subject(model, npz).dataset.arrays("test")[0].shape == (21, 12, 10, 3)


def test_a_loaded_dataset_is_taken_as_it_is(npz):
    dataset = corners.dataset(npz)
    model = corners.network(end="deployable")
    opened = open_subject(model, dataset)
    assert opened.dataset is dataset
    assert opened.model is model
    assert load_dataset(dataset, (1, 1, 1)) is dataset


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("digits", "digits"),
        ("my net.v2", "my_net.v2"),
        ("../../etc/passwd", "etc_passwd"),
        ("...", "model"),
        ("猫", "model"),
        ("a\nb<script>", "a_b_script"),
        ("-rf", "rf"),
    ],
)
def test_names_are_safe_in_paths_and_urls(text, name):
    assert safe_name(text) == name


def test_very_long_names_still_fit_into_a_file_name():
    assert len(f".{safe_name('x' * 1000)}_float32.partial-4194304.tflite") < 255


def test_data_of_other_classes_are_refused(run, bundle, tmp_path):
    other = corners.save(tmp_path / "other.npz", labels=("x", "y", "z"))
    for place in (run, bundle.folder):
        with pytest.raises(UsageError, match=r"other classes than .* Received x, y, z"):
            open_subject(place, other)
    four = corners.network(end="logits")
    x = keras.Input(corners.SHAPE)
    four = keras.Model(x, layers.Dense(4)(layers.Flatten()(x)))
    with pytest.raises(UsageError, match="different numbers of classes"):
        open_subject(four, other)


class Subclassed(keras.Model):
    def call(self, x):
        return x


def with_shape(shape):
    x = keras.Input(shape)
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("has_data", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Subclassed, "no layer graph"),
        (lambda: keras.Sequential([layers.Dense(3)]), "no layer graph"),
        (lambda: with_shape((None, None, 3)), "not a picture of a fixed size"),
        (lambda: with_shape((8, 8, 4)), "not a picture of a fixed size"),
    ],
)
def test_models_of_another_kind_are_refused_with_and_without_data(npz, make, message, has_data):
    with pytest.raises(UsageError, match=message):
        open_subject(make(), npz if has_data else None)


def test_places_that_are_none(tmp_path, run):
    with pytest.raises(UsageError, match="No such model file"):
        open_subject(tmp_path / "missing.keras")
    with pytest.raises(UsageError, match="Not a run folder"):
        open_subject(tmp_path)
    with pytest.raises(DataError, match="Cannot open the data"):
        open_subject(run, tmp_path / "missing.npz")
    own = shutil.copytree(run, tmp_path / "own")
    (own / "model.keras").unlink()
    with pytest.raises(UsageError, match="Training has not finished"):
        open_subject(own)


JUDGED = [
    "keras/model.keras",
    ".",
    "tflite/corners_int8.tflite",
    "onnx/corners_float32.onnx",
    "serving/corners/1",
    "serving/corners",
]


@pytest.mark.parametrize("place", JUDGED)
def test_anything_can_be_judged(bundle, subject, place, npz):
    x, y = subject.dataset.arrays("test")
    given = npz if place.endswith(".keras") else None
    runnable, dataset = open_judge(bundle.folder / place, given)
    assert same_pictures(dataset, subject.dataset)
    if "serving" not in place:
        assert np.mean(runnable.predict(x).argmax(1) == y) > 0.9
    assert (runnable.labels, runnable.resize) == (corners.LABELS, "letterbox")


def test_a_file_alone_needs_data(bundle, npz, tmp_path):
    path = shutil.copy(bundle.folder / "onnx/corners_float32.onnx", tmp_path / "alone.onnx")
    with pytest.raises(UsageError, match=r"No data to judge it on: .*`cnnkit eval .*alone.onnx"):
        open_judge(path)
    _, dataset = open_judge(path, npz)
    assert len(dataset.labels("test")) == 21
    other = corners.save(tmp_path / "other.npz", labels=("x", "y", "z"))
    with pytest.raises(UsageError, match="other classes"):
        open_judge(path, other)


def test_a_file_that_lies_in_a_run_folder(run, bundle, tmp_path, npz):
    own = shutil.copytree(run, tmp_path / "own")
    path = shutil.copy(bundle.folder / "onnx/corners_float32.onnx", own / "extra.onnx")
    _, dataset = open_judge(path, npz)
    assert isinstance(dataset, data.Dataset)
