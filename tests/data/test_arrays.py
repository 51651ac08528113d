import gzip
import struct

import numpy as np
import pytest

from cnnkit.data import check
from cnnkit.data import load
from cnnkit.errors import DataError


def random(n=20, shape=(6, 5), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def idx(path, array):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def mnist(folder, n_train=30, n_test=10, end=""):
    idx(folder / f"train-images-idx3-ubyte{end}", random(n_train))
    idx(folder / f"train-labels-idx1-ubyte{end}", np.arange(n_train) % 3)
    if n_test:
        idx(folder / f"t10k-images-idx3-ubyte{end}", random(n_test, seed=1))
        idx(folder / f"t10k-labels-idx1-ubyte{end}", np.arange(n_test) % 3)
    return folder


def everything(dataset):
    """Pixels by id, over all splits."""
    return {
        id: pixels
        for split in ("train", "val", "test")
        for id, pixels in zip(dataset.ids(split), dataset.arrays(split)[0], strict=True)
    }


def test_digits():
    manifest = check("digits")
    assert manifest.path == "digits"
    assert manifest.classes == [str(i) for i in range(10)]
    assert len(manifest.items) == 1797
    dataset = load(manifest)
    assert dataset.image_shape == (8, 8, 1)
    x, y = dataset.arrays("train")
    assert (x.dtype, y.dtype, x.min(), x.max()) == (np.uint8, np.int64, 0, 255)


def test_npz_keeps_pixels_and_labels(tmp_path):
    x, y = random(20), np.arange(20) % 2
    manifest = check(npz(tmp_path, x=x, y=y))
    assert (manifest.kind, manifest.classes, manifest.shape) == ("npz", ["0", "1"], (6, 5, 1))
    dataset = load(manifest)
    for split in ("train", "val", "test"):
        pixels, labels = dataset.arrays(split)
        index = [int(id) for id in dataset.ids(split)]
        np.testing.assert_array_equal(pixels[..., 0], x[index])
        np.testing.assert_array_equal(labels, y[index])
        np.testing.assert_array_equal(labels, dataset.labels(split))


def test_npz_with_a_test_part(tmp_path):
    names = np.array(["cat", "dog"])
    path = npz(
        tmp_path,
        x_train=random(20),
        y_train=names[np.arange(20) % 2],
        x_test=random(6, seed=1),
        y_test=names[np.arange(6) % 2],
    )
    manifest = check(path)
    assert manifest.classes == ["cat", "dog"]
    assert [item.id for item in manifest.select("test")] == [str(i) for i in range(20, 26)]
    assert len(manifest.select("val")) == 4


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_fractions_are_scaled(tmp_path, dtype):
    x = random()
    manifest = check(npz(tmp_path, x=(x / 255).astype(dtype), y=np.arange(20) % 2))
    for id, pixels in everything(load(manifest)).items():
        np.testing.assert_array_equal(pixels[..., 0], x[int(id)])


@pytest.mark.parametrize("dtype", ["int64", "float32", "uint16"])
def test_whole_numbers_are_kept(tmp_path, dtype):
    x = random(shape=(4, 4, 3))
    manifest = check(npz(tmp_path, x=x.astype(dtype), y=(np.arange(20) % 2)[:, None]))
    for id, pixels in everything(load(manifest)).items():
        np.testing.assert_array_equal(pixels, x[int(id)])


Y = np.arange(20) % 2
BAD = {
    "missing": ({"a": Y}, "Arrays are missing.*x and y.*Received a"),
    "shape": ({"x": random(shape=(4,)), "y": Y}, r"wrong shape.*\(20, 4\)"),
    "channels": ({"x": random(shape=(4, 4, 2)), "y": Y}, r"wrong shape.*\(20, 4, 4, 2\)"),
    "no pixels": ({"x": random(shape=(0, 4)), "y": Y}, "wrong shape"),
    "range": ({"x": random().astype(int) * 2, "y": Y}, "0-255.*int64 from 0"),
    "negative": ({"x": random() / 128 - 1, "y": Y}, "wrong type or range.*float64 from -1"),
    "nan": ({"x": np.full((20, 4, 4), np.nan), "y": Y}, "wrong type or range"),
    "text": ({"x": np.full((20, 4, 4), "a"), "y": Y}, "wrong type or range.*U1"),
    "line break": (
        {"x": random(), "y": np.array(["a\nb", "c"])[Y]},
        r"cannot be a class name: 'a\\nb'",
    ),
    "lengths": ({"x": random(), "y": Y[:-1]}, "20 pictures, 19 labels"),
    "one-hot": ({"x": random(), "y": np.eye(20)}, "wrong shape or type.*argmax"),
    "float labels": ({"x": random(), "y": Y / 2}, "wrong shape or type.*float64"),
    "objects": ({"x": random(), "y": Y.astype(object)}, "Python objects are not read"),
    "nothing": ({"x": random(0), "y": Y[:0]}, "0 pictures"),
    "one class": ({"x": random(), "y": Y * 0}, "Only one class"),
    "single": ({"x": random(), "y": np.arange(20) // 19}, "Too few usable pictures in class: 1 "),
    "all equal": ({"x": random() * 0, "y": Y}, "No usable picture.*index 0: label conflict"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD.values(), ids=BAD)
def test_bad_arrays(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        check(npz(tmp_path, **arrays))
    assert "data.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no zip", b"text", b"\x80\4K\1."])
def test_damaged_npz(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz"):
        check(path)


def test_single_array_called_npz(tmp_path):
    with (tmp_path / "data.npz").open("wb") as file:
        np.save(file, random())
    with pytest.raises(DataError, match=r"data\.npz"):
        check(tmp_path / "data.npz")


def test_train_and_test_of_different_shapes(tmp_path):
    path = npz(tmp_path, x_train=random(), y_train=Y, x_test=random(shape=(6, 6)), y_test=Y)
    with pytest.raises(DataError, match="differ in shape"):
        check(path)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx(tmp_path, end):
    manifest = check(mnist(tmp_path, end=end))
    assert manifest.kind == "idx"
    sizes = {split: sum(n.values()) for split, n in manifest.counts().items()}
    assert sizes == {"train": 24, "val": 6, "test": 10}
    both = np.concatenate([random(30), random(10, seed=1)])
    for id, pixels in everything(load(manifest)).items():
        np.testing.assert_array_equal(pixels[..., 0], both[int(id)])


def test_idx_without_a_test_part(tmp_path):
    manifest = check(mnist(tmp_path, n_test=0))
    assert all(n for split in manifest.counts().values() for n in split.values())


def test_bad_idx(tmp_path):
    labels = mnist(tmp_path) / "train-labels-idx1-ubyte"
    good = labels.read_bytes()
    for content, message in (
        (good[:-1], "truncated or too long.*30 bytes.*Received 29"),
        (good + b"x", "truncated or too long.*Received more"),
        (good[:4] + b"\xff\xff\xff\xff", "truncated"),
        (good[:6], "the file ends in its head"),
        (b"", "Not an IDX file"),
        (b"\0\0\x0d\1" + good[4:], r"Not an IDX file of bytes.*\[0, 0, 13, 1\]"),
    ):
        labels.write_bytes(content)
        with pytest.raises(DataError, match=message):
            check(tmp_path)
    labels.unlink()
    with pytest.raises(DataError, match=r"MNIST file missing.*train-labels"):
        check(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(good)[:-9])
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz"):
        check(tmp_path)


def test_copies_are_dropped_and_the_rest_keeps_its_index(tmp_path):
    x = random()
    x[3] = x[1]
    x[5] = x[4]
    manifest = check(npz(tmp_path, x=x, y=Y))
    assert [(p.path, p.code) for p in manifest.problems] == [
        ("index 3", "duplicate"),
        ("index 4", "conflict"),
        ("index 5", "conflict"),
    ]
    assert {int(item.id) for item in manifest.items} == set(range(20)) - {3, 4, 5}
    assert type(manifest).load(manifest.save(tmp_path / "m.json")) == manifest


def test_changed_file_is_named_on_load(tmp_path):
    path = npz(tmp_path, x=random(), y=Y)
    manifest = check(path)
    npz(tmp_path, x=random(seed=1), y=Y)
    with pytest.raises(DataError, match=r"changed.*data\.npz.*other content"):
        load(manifest)
    path.unlink()
    with pytest.raises(DataError, match=r"data\.npz"):
        load(manifest)


def test_removed_idx_file_is_named_on_load(tmp_path):
    manifest = check(mnist(tmp_path))
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    with pytest.raises(DataError, match=r"t10k.*the file is gone"):
        load(manifest)
