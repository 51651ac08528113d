import subprocess
import sys

import numpy as np
import pytest

import cnnkit
from cnnkit.data import Manifest
from cnnkit.data import check
from cnnkit.data import golden_pictures
from cnnkit.data import load
from cnnkit.errors import DataError
from cnnkit.errors import UsageError
from tests.data.folders import class_folders


@pytest.fixture
def root(tmp_path):
    return class_folders(tmp_path / "d", n=8, classes=("a", "b", "c"))


def test_check_is_public():
    assert cnnkit.check is check


def test_manifest_round_trip(root, tmp_path):
    manifest = check(root, split=(0.5, 0.25, 0.25), seed=3)
    path = manifest.save(tmp_path / "m.json")
    again = Manifest.load(path)
    assert again == manifest
    assert (again.seed, again.fractions) == (3, (0.5, 0.25, 0.25))
    x, y = load(manifest).arrays("val")
    x_again, y_again = load(again).arrays("val")
    np.testing.assert_array_equal(x, x_again)
    np.testing.assert_array_equal(y, y_again)


def test_manifest_of_arrays_is_compact(tmp_path):
    n = 70_000
    x = np.arange(n, dtype=np.uint32).view(np.uint8).reshape(n, 2, 2)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(n) % 10)
    manifest = check(tmp_path / "d.npz")
    path = manifest.save(tmp_path / "m.json")
    assert path.stat().st_size < 500_000
    assert Manifest.load(path) == manifest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"schema": 1', '"schema": 2'),
        ('"label": 2', '"label": 3'),
        ('"split": "val"', '"split": "dev"'),
        ('"seed": 0', '"seed": 0, "sed": 1'),
        ("{", "["),
    ],
)
def test_changed_manifest_is_refused_on_one_line(root, tmp_path, old, new):
    path = check(root).save(tmp_path / "m.json")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=r"Not a data manifest.*m\.json") as caught:
        Manifest.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("old", "new"), [('"splits"', '"split"'), (": 0, ", ": [], "), ("0", "7")])
def test_changed_manifest_of_arrays_is_refused(tmp_path, old, new):
    path = check("digits").save(tmp_path / "m.json")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=r"Not a data manifest.*m\.json"):
        Manifest.load(path)


def test_missing_manifest(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read the manifest.*m\.json"):
        Manifest.load(tmp_path / "m.json")


@pytest.mark.parametrize("split", [(0.7, 0.3), (0.7, 0.3, 0.0), (0.7, 0.2, 0.2), (7, 1.5, 1.5)])
def test_wrong_split(root, split):
    with pytest.raises(UsageError, match="three positive fractions"):
        check(root, split=split)


def test_wrong_arguments(root):
    with pytest.raises(UsageError, match="on_bad_image"):
        check(root, on_bad_image="ignore")
    manifest = check(root)
    with pytest.raises(UsageError, match="resize rule"):
        load(manifest, resize="stretch")
    with pytest.raises(ValueError, match="image_size"):
        load(manifest, image_size=(0, 8))
    with pytest.raises(ValueError, match="channels"):
        load(manifest, channels=2)


def test_arrays_follow_ids_and_shape(root):
    dataset = load(check(root), image_size=(10, 14), channels=1, resize="crop")
    assert dataset.image_shape == (10, 14, 1)
    x, y = dataset.arrays("train")
    assert x.shape == (len(dataset.ids("train")), 10, 14, 1)
    assert (x.dtype, y.dtype) == (np.uint8, np.int64)
    assert [dataset.classes[label] for label in y] == [id[0] for id in dataset.ids("train")]


def test_arrays_can_be_resized():
    digits = load(check("digits"), image_size=(16, 12), channels=3, resize="squash")
    assert digits.arrays("test")[0].shape[1:] == (16, 12, 3)


def test_statistics_are_of_raw_training_pixels(root):
    dataset = load(check(root))
    x = dataset.arrays("train")[0].astype(np.float64)
    means, deviations = dataset.statistics()
    np.testing.assert_allclose(means, x.mean((0, 1, 2)))
    np.testing.assert_allclose(deviations, x.std((0, 1, 2)))


def test_deviation_of_a_constant_channel_is_one(tmp_path):
    x = np.zeros((20, 4, 4, 3), np.uint8)
    x[..., 0] = np.arange(20)[:, None, None]
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(20) % 2)
    means, deviations = load(check(tmp_path / "d.npz")).statistics()
    assert means[1:] == [0, 0]
    assert deviations[1:] == [1, 1]


def test_golden_pictures_are_test_pictures_one_of_each_class_first():
    dataset = load(check("digits"))
    golden = golden_pictures(dataset, 12)
    assert [label for _, _, label in golden] == [*range(10), 0, 1]
    ids = dataset.ids("test")
    x, y = dataset.arrays("test")
    for id, pixels, label in golden:
        np.testing.assert_array_equal(pixels, x[ids.index(id)])
        assert label == y[ids.index(id)]
    assert len(golden_pictures(dataset, 10_000)) == len(ids)


def test_import_is_light():
    code = (
        "import sys, cnnkit.data\n"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'sklearn', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
