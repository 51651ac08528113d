"""TFRecord files: read as they are found, written so that others read them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cnnkit.data import Manifest
from cnnkit.data import check
from cnnkit.data import load
from cnnkit.data import write_tfrecords
from cnnkit.errors import DataError
from cnnkit.errors import UsageError
from tests.data.folders import class_folders
from tests.data.folders import encoded
from tests.data.folders import picture


def example(image, label=0, **texts):
    """A record as TensorFlow's own programs write it."""
    features = {"image/encoded": image, "image/class/label": label}
    names = {"text": "image/class/text", "filename": "image/filename"}
    features |= {names[name]: text.encode() for name, text in texts.items()}
    return record({name: value for name, value in features.items() if value is not None})


def record(features):
    made = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        if isinstance(value, int)
        else tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def write(path, records, compression=""):
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for each in records:
            writer.write(each)
    return path


def some(n=12, first=0, classes=("cat", "dog"), base=0):
    """`n` records of each class, labels counted from `base`."""
    return [
        example(encoded(picture((first, label, i))), label + base, text=name)
        for i in range(n)
        for label, name in enumerate(classes)
    ]


def pixels(manifest, size=(12, 20)):
    """Pixels and class names by content, over all splits."""
    dataset = load(manifest, image_size=size, channels=3, resize="squash")
    found = {}
    for split in ("train", "val", "test"):
        x, y = dataset.arrays(split)
        for item, one, label in zip(manifest.select(split), x, y, strict=True):
            found[item.sha256] = (split, manifest.classes[label], one.tobytes())
    return found


def test_records_become_pictures(tmp_path):
    write(tmp_path / "photos-0.tfrecord", some())
    write(tmp_path / "photos-1.tfrecord", some(5, first=1))
    write(tmp_path / "other.tfrecord", some(5, first=2))
    manifest = check(tmp_path / "photos-*.tfrecord")
    assert (manifest.kind, manifest.path) == ("tfrecord", str(tmp_path / "photos-*.tfrecord"))
    assert manifest.classes == ["cat", "dog"]
    assert manifest.problems == []
    assert list(manifest.files) == ["photos-0.tfrecord", "photos-1.tfrecord"]
    assert len(manifest.items) == 34
    item = manifest.items[1]
    assert (item.id, item.label, item.width, item.height) == ("photos-0.tfrecord#1", 1, 20, 12)
    found = pixels(manifest)
    for label, name in enumerate(("cat", "dog")):
        for i in range(12):
            expected = np.asarray(picture((0, label, i))).tobytes()
            assert sum(v[1:] == (name, expected) for v in found.values()) == 1
    assert Manifest.load(manifest.save(tmp_path / "m.json")) == manifest
    assert check(tmp_path / "photos-*.tfrecord") == manifest


def test_one_file_packed_or_not(tmp_path):
    path = write(tmp_path / "a.tfrecord.gz", some(), "GZIP")
    assert len(check(path).items) == 24
    assert len(check(str(write(tmp_path / "b.tfrecord-00000-of-00001", some()))).items) == 24


def test_labels_without_names_and_with_gaps(tmp_path):
    images = [encoded(picture(i)) for i in range(12)]
    write(tmp_path / "a.tfrecord", [example(im, (3, 10)[i % 2]) for i, im in enumerate(images)])
    manifest = check(tmp_path / "a.tfrecord")
    assert manifest.classes == ["3", "10"]
    assert [item.label for item in manifest.items] == [0, 1] * 6


def test_splits_that_names_of_files_tell(tmp_path):
    for i, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "validation-0")):
        write(tmp_path / name, some(4, first=i))
    manifest = check(str(tmp_path / "*-0*"))
    assert {name: sum(n.values()) for name, n in manifest.counts().items()} == {
        "train": 14,
        "val": 8,
        "test": 2,
    }
    assert all(i.id.startswith("validation") == (i.split == "val") for i in manifest.items)
    write(tmp_path / "my_training-photos.tfrecord", some(9, first=5))
    assert all(check(tmp_path / "my*.tfrecord").counts()[split] for split in ("val", "test"))
    write(tmp_path / "d-test.tfrecord", some(9, first=6))  # nothing to train on: split it
    assert check(tmp_path / "d-test.tfrecord").counts()["train"]["cat"] == 6


def test_pictures_that_cannot_be_used_are_listed(tmp_path):
    good = encoded(picture(99, (64, 64)))
    bad = [
        example(good[:2000], 0, text="cat"),
        example(b"", 0, text="cat"),
        example(b"no picture", 1, text="dog", filename="x/ü.png"),
        example(good, 1, text="dog", filename="wrong.jpg"),
        some(1)[0],
    ]
    write(tmp_path / "a.tfrecord", some() + bad)
    manifest = check(tmp_path / "a.tfrecord")
    assert {p.path: (p.code, p.action) for p in manifest.problems} == {
        "a.tfrecord#24": ("truncated", "skipped"),
        "a.tfrecord#25": ("empty", "skipped"),
        "a.tfrecord#26/x/ü.png": ("wrong-name", "skipped"),
        "a.tfrecord#27/wrong.jpg": ("wrong-name", "kept"),
        "a.tfrecord#28": ("duplicate", "skipped"),
    }
    assert len(pixels(manifest)) == 25
    with pytest.raises(DataError, match=r"4 bad pictures|5 bad pictures"):
        check(tmp_path / "a.tfrecord", on_bad_image="fail")


def damaged(content, at):
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("spoil", "number"),
    [
        (lambda c: c[:-7], 23),
        (lambda c: c[: len(c) // 2 - 50], None),
        (lambda c: damaged(c, len(c) - 100), 23),
        (lambda c: damaged(c, 3), 0),
        (lambda c: b"no records at all", 0),
        (lambda c: c + b"more", 24),
    ],
    ids=["truncated", "half", "record", "head", "text", "tail"],
)
def test_damaged_files_are_named_with_the_record(tmp_path, spoil, number):
    path = write(tmp_path / "a.tfrecord", some())
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=r"damaged or truncated: a\.tfrecord#") as caught:
        check(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    if number is not None:
        assert f"a.tfrecord#{number}." in line


@pytest.mark.parametrize("spoil", [lambda c: c[:-20], lambda c: damaged(c, len(c) // 2)])
def test_damaged_gzip(tmp_path, spoil):
    path = write(tmp_path / "a.tfrecord.gz", some(), "GZIP")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=r"damaged or truncated: a\.tfrecord\.gz#"):
        check(path)


def test_empty_file(tmp_path):
    with pytest.raises(DataError, match=r"No usable picture in: .*Received 0 bad ones\."):
        check(write(tmp_path / "a.tfrecord", []))


PICTURE = encoded(picture(0))
WRONG = {
    "no label": (example(PICTURE, None), "no proper image/class/label.*Received image/encoded"),
    "no picture": (example(None, 1), "no proper image/encoded.*Received image/class/label"),
    "other names": (record({"image": PICTURE, "label": 1}), "image/encoded.*Received image, label"),
    "label as text": (
        record({"image/encoded": PICTURE, "image/class/label": b"1"}),
        "no proper image/class/label.*one integer",
    ),
    "nothing": (record({}), "Received no features at all"),
    "no example": (b"\xff\xff\xff", "No tf.train.Example"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_wrong_features_are_named_with_the_record(tmp_path, content, message):
    write(tmp_path / "a.tfrecord", [*some(2), content])
    with pytest.raises(DataError, match=message) as caught:
        check(tmp_path / "a.tfrecord")
    assert "a.tfrecord#4" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_and_labels_must_agree(tmp_path):
    write(tmp_path / "a.tfrecord", [*some(), example(PICTURE, 0, text="cow")])
    with pytest.raises(DataError, match=r"Label 0 has several names.*cat, cow"):
        check(tmp_path / "a.tfrecord")
    write(tmp_path / "a.tfrecord", [*some(), example(PICTURE, 7, text="cat")])
    with pytest.raises(DataError, match=r"Several labels have one name.*cat"):
        check(tmp_path / "a.tfrecord")


def test_pattern_without_files(tmp_path):
    for name in ("none-*.tfrecord", "none.tfrecord", "*/x-*"):
        with pytest.raises(DataError, match="No TFRecord file matches"):
            check(tmp_path / name)


def test_groups_by_the_name_of_the_picture(tmp_path):
    records = [
        example(encoded(picture((p, i))), p % 2, filename=f"patient{p}/{i}.png")
        for i in range(3)
        for p in range(12)
    ]
    write(tmp_path / "a.tfrecord", records)
    manifest = check(tmp_path / "a.tfrecord", group_by=r"patient\d+")
    assert len({(item.group, item.split) for item in manifest.items}) == 12


def test_changed_files_are_named_on_load(tmp_path):
    path = write(tmp_path / "a.tfrecord", some())
    manifest = check(tmp_path / "*.tfrecord")
    content = path.read_bytes()
    path.write_bytes(content)  # later, but the same
    assert len(pixels(manifest)) == 24
    write(tmp_path / "later.tfrecord", some(2, first=3))
    assert len(pixels(manifest)) == 24
    write(path, some(first=1))
    with pytest.raises(DataError, match=r"changed.*a\.tfrecord.*other content"):
        load(manifest)
    path.unlink()
    with pytest.raises(DataError, match=r"changed.*a\.tfrecord.*is gone"):
        load(manifest)


@pytest.fixture
def root(tmp_path):
    root = class_folders(tmp_path / "pets", n=9)
    (root / "cat" / "größe 1.jpg").write_bytes(encoded(picture(50), "JPEG"))
    return root


@pytest.mark.parametrize("shards", [1, 3])
def test_written_files_hold_the_same(root, tmp_path, shards):
    manifest = check(root)
    paths = write_tfrecords(manifest, tmp_path / "records", shards)
    assert len(paths) == 3 * shards
    assert sorted(paths) == sorted((tmp_path / "records").iterdir())
    assert paths[0].name == f"train-00000-of-{shards:05d}.tfrecord"
    again = check(tmp_path / "records" / "*.tfrecord")
    assert pixels(again) == pixels(manifest)
    assert again.problems == []
    once_more = write_tfrecords(again, tmp_path / "more", 2)
    assert pixels(check(tmp_path / "more" / "*.tfrecord")) == pixels(manifest)
    assert len(once_more) == 6


def test_written_files_are_what_tensorflow_decodes(root, tmp_path):
    manifest = check(root)
    paths = write_tfrecords(manifest, tmp_path / "records")
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/format": tf.io.FixedLenFeature([], tf.string),
        "image/height": tf.io.FixedLenFeature([], tf.int64),
        "image/width": tf.io.FixedLenFeature([], tf.int64),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/class/text": tf.io.FixedLenFeature([], tf.string),
    }
    seen = {}
    for raw in tf.data.TFRecordDataset(list(map(str, paths))):
        row = {k: v.numpy() for k, v in tf.io.parse_single_example(raw, features).items()}
        image = tf.io.decode_image(row["image/encoded"]).numpy()
        assert image.shape == (row["image/height"], row["image/width"], 3)
        assert manifest.classes[row["image/class/label"]] == row["image/class/text"].decode()
        seen[row["image/filename"].decode()] = row["image/format"]
    assert seen == {i.id: b"jpeg" if i.id.endswith("jpg") else b"png" for i in manifest.items}


def test_written_pixels_of_arrays_and_datasets(root, tmp_path):
    write_tfrecords(load(check(root), image_size=(8, 9), channels=1), tmp_path / "small")
    again = check(tmp_path / "small" / "*.tfrecord")
    assert {(i.width, i.height, i.mode) for i in again.items} == {(9, 8, "L")}
    x = np.random.default_rng(0).integers(0, 256, (20, 6, 5), np.uint8)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(20) % 2)
    manifest = check(tmp_path / "d.npz")
    write_tfrecords(manifest, tmp_path / "arrays")
    records = check(tmp_path / "arrays" / "*.tfrecord")
    both = [load(m, image_size=(6, 5), channels=1) for m in (manifest, records)]
    for split in ("train", "val", "test"):
        (a, y), (b, z) = (dataset.arrays(split) for dataset in both)
        assert sorted(zip(y, map(bytes, a), strict=True)) == sorted(
            zip(z, map(bytes, b), strict=True)
        )


def test_nothing_is_overwritten(root, tmp_path):
    with pytest.raises(UsageError, match="something already"):
        write_tfrecords(check(root), root)
    assert (root / "cat").is_dir()


def test_nothing_half_written_is_left(root, tmp_path):
    manifest = check(root)
    shutil.rmtree(root / "dog")
    with pytest.raises(DataError, match="No such file"):
        write_tfrecords(manifest, tmp_path / "records")
    assert [p.name for p in Path(tmp_path).iterdir()] == ["pets"]
