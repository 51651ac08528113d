"""Splits that do not lie in memory: the same pixels, from a file that comes and goes."""

import gc
import resource
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from cnnkit.data import cache
from cnnkit.data import check
from cnnkit.data import golden_pictures
from cnnkit.data import load
from cnnkit.data import pictures
from cnnkit.data import sample
from cnnkit.data import write_tfrecords
from cnnkit.errors import CnnkitError
from cnnkit.training.evaluate import evaluate
from cnnkit.training.fit import fit
from cnnkit.training.pipeline import Batches
from cnnkit.training.recipe import resolve
from tests.data.folders import class_folders

SPLITS = ("train", "val", "test")


@pytest.fixture
def root(tmp_path):
    return class_folders(tmp_path / "pets", n=10)


@pytest.fixture
def manifest(root):
    return check(root)


def same(one, other):
    for split in SPLITS:
        for a, b in zip(one.arrays(split), other.arrays(split), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{}, {"channels": 1, "resize": "crop", "image_size": (9, 11)}])
def test_mapped_pixels_are_those_in_memory(manifest, tmp_path, options):
    memory = load(manifest, **options)
    mapped = load(manifest, **options, cache=tmp_path / "cache", in_memory=0)
    same(memory, mapped)
    assert all(isinstance(mapped.arrays(split)[0], np.memmap) for split in SPLITS)
    assert not any(isinstance(memory.arrays(split)[0], np.memmap) for split in SPLITS)
    assert memory.statistics() == mapped.statistics()
    assert len(list((tmp_path / "cache").iterdir())) == 3
    with pytest.raises(ValueError, match="read-only"):
        mapped.arrays("train")[0][0] = 0


@pytest.mark.parametrize("options", [{}, {"image_size": (5, 7), "channels": 3}])
def test_arrays_and_records_are_mapped_too(manifest, tmp_path, options):
    write_tfrecords(manifest, tmp_path / "records")
    records = check(tmp_path / "records" / "*.tfrecord")
    for each in (check("digits"), records):
        same(load(each, **options), load(each, **options, in_memory=0))


def test_the_limit_is_of_the_pixels_of_a_split(manifest):
    n = len(manifest.select("train")) * 32 * 32 * 3
    for limit, kind in ((n, np.ndarray), (None, np.ndarray), (n - 1, np.memmap)):
        dataset = load(manifest, in_memory=limit)
        assert type(dataset.arrays("train")[0]) is kind
        assert type(dataset.arrays("test")[0]) is np.ndarray


def test_a_file_is_used_again(manifest, tmp_path):
    first = load(manifest, cache=tmp_path / "cache", in_memory=0)
    same(first, first)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
    same(first, load(manifest, cache=tmp_path / "cache", in_memory=0))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()} == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: np.save(path, np.zeros((1, 2, 3, 1), np.uint8)),
        lambda path: np.save(path, np.array([{}])),
    ],
    ids=["truncated", "empty", "other shape", "objects"],
)
def test_a_spoiled_file_is_written_again(manifest, tmp_path, spoil):
    first = load(manifest, cache=tmp_path / "cache", in_memory=0)
    expected = np.array(first.arrays("train")[0])
    [path] = (tmp_path / "cache").iterdir()
    del first
    path.unlink()
    path.touch()
    spoil(path)
    got = load(manifest, cache=tmp_path / "cache", in_memory=0).arrays("train")[0]
    np.testing.assert_array_equal(got, expected)


def test_other_contents_shapes_and_rules_are_other_files(root, manifest):
    def name(manifest=manifest, shape=(8, 8, 3), resize="crop", split="train"):
        return cache.name(manifest, manifest.select(split), shape, resize)

    names = [name(), name(shape=(8, 8, 1)), name(resize="squash"), name(split="val")]
    (root / "cat" / "3.png").write_bytes((root / "cat" / "4.png").read_bytes())
    names.append(name(check(root)))
    assert len(set(names)) == len(names)
    assert name() == names[0]


def test_a_temporary_file_goes_with_the_dataset(manifest):
    dataset = load(manifest, in_memory=0)
    x, _ = dataset.arrays("train")
    folder = Path(x.filename).parent
    assert folder.is_dir()
    expected = np.array(x)
    del dataset
    gc.collect()
    assert not folder.exists()
    np.testing.assert_array_equal(x, expected)


def test_no_room_is_told_before_anything_is_decoded(manifest, tmp_path):
    dataset = load(manifest, image_size=(10**6, 10**6), cache=tmp_path / "cache")
    with pytest.raises(CnnkitError, match=r"No room.*cache.*42000\.000 GB.*free.*data\.cache"):
        dataset.arrays("train")
    assert list((tmp_path / "cache").iterdir()) == []


FULL = """
import sys
from cnnkit import data, errors
manifest = data.Manifest.load(sys.argv[1])
try:
    data.load(manifest, cache=sys.argv[2], in_memory=0).arrays("train")
except errors.CnnkitError as error:
    sys.exit(str(error))
"""


def test_a_disk_that_fills_up_is_an_error_and_leaves_nothing(manifest, tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    path = manifest.save(tmp_path / "m.json")
    done = subprocess.run(
        [sys.executable, "-c", FULL, path, tmp_path / "cache"],
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Cannot write: {tmp_path / 'cache'}")
    assert "File too large" in done.stderr
    assert list((tmp_path / "cache").iterdir()) == []


def test_picture_that_went_bad_leaves_no_half_file(root, manifest, tmp_path):
    dataset = load(manifest, cache=tmp_path / "cache", in_memory=0)
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(pictures.PictureError, match=r"\.png"):
        dataset.arrays("train")
    assert list((tmp_path / "cache").iterdir()) == []


def second_batch(dataset):
    batches = Batches(*dataset.arrays("train"), 2, 4, 0)
    return batches.of(batches.indices(0)[1])


def test_whoever_takes_arrays_takes_maps(manifest):
    memory, mapped = load(manifest), load(manifest, in_memory=0)
    for make in (lambda d: sample(d, 5), second_batch):
        for a, b in zip(make(memory), make(mapped), strict=True):
            np.testing.assert_array_equal(a, b)
            assert not isinstance(b, np.memmap)
    for (i, a, _), (j, b, _) in zip(*map(golden_pictures, (memory, mapped)), strict=True):
        assert i == j
        np.testing.assert_array_equal(a, b)

    def judged(x):
        bright = x.reshape(len(x), -1).mean(1, keepdims=True) / 255
        return np.hstack([bright, 1 - bright])

    assert evaluate(judged, memory) == evaluate(judged, mapped)


def test_training_from_maps_is_training_from_memory(manifest):
    weights = []
    for limit in (None, 0):
        keras.utils.set_random_seed(0)
        layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
        net = keras.Sequential(layers)
        model = keras.Model(net.inputs, net.outputs)
        fit(model, load(manifest, image_size=(8, 8), in_memory=limit), epochs=2)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_recipe_has_limit_and_folder():
    data = resolve(sets=["data.in_memory=2GiB", "data.cache=/ssd"]).recipe.data
    assert (data.in_memory, data.cache) == (2 * 2**30, "/ssd")
    assert resolve(sets=["data.in_memory=none"]).recipe.data.in_memory is None
