import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cnnkit.data import check
from cnnkit.data import image_shape
from cnnkit.data import load
from cnnkit.errors import DataError
from tests.data.folders import class_folders
from tests.data.folders import encoded
from tests.data.folders import picture


@pytest.fixture
def root(tmp_path):
    return class_folders(tmp_path / "pets")


def codes(manifest):
    return {p.path: (p.code, p.action) for p in manifest.problems}


def test_clean_folder(root):
    manifest = check(root)
    assert manifest.kind == "folder"
    assert manifest.path == str(root)
    assert manifest.classes == ["cat", "dog"]
    assert manifest.problems == []
    assert manifest.counts() == {
        "train": {"cat": 4, "dog": 4},
        "val": {"cat": 1, "dog": 1},
        "test": {"cat": 1, "dog": 1},
    }
    first = manifest.items[0]
    assert (first.id, first.label, first.width, first.height) == ("cat/0.png", 0, 20, 12)
    assert check(root) == manifest


def test_bad_files_are_listed_and_left_out(root):
    cat = root / "cat"
    good = encoded(picture(99, (64, 64)))
    (cat / "a.png").write_bytes(good[:2000])
    (cat / "b.png").write_bytes(b"")
    (cat / "c.png").write_text("no picture")
    (cat / "notes.txt").write_text("no picture")
    (cat / "d.gif").write_bytes(
        encoded(picture(1), "GIF", save_all=True, append_images=[picture(2)])
    )
    (cat / "e.jpg").write_bytes(good)
    (cat / "f.jpg").write_bytes(encoded(picture(98, mode="CMYK"), "JPEG"))
    (cat / "g.png").write_bytes(encoded(Image.fromarray(np.eye(9, dtype=np.uint16))))
    (cat / ".DS_Store").write_bytes(b"x")
    (cat / "Thumbs.db").write_bytes(b"x")
    (root / "README.md").write_text("x")
    (root / "later").mkdir()
    os.mkfifo(cat / "h.png")
    (cat / "i.png").symlink_to("i.png")
    manifest = check(root)
    assert codes(manifest) == {
        "cat/a.png": ("truncated", "skipped"),
        "cat/b.png": ("empty", "skipped"),
        "cat/c.png": ("wrong-name", "skipped"),
        "cat/notes.txt": ("not-a-picture", "skipped"),
        "cat/d.gif": ("animated", "skipped"),
        "cat/e.jpg": ("wrong-name", "kept"),
        "cat/f.jpg": ("cmyk", "kept"),
        "cat/g.png": ("16-bit", "kept"),
        "cat/h.png": ("unreadable", "skipped"),
        "cat/i.png": ("unreadable", "skipped"),
        "cat/.DS_Store": ("hidden", "ignored"),
        "cat/Thumbs.db": ("hidden", "ignored"),
        "README.md": ("stray", "ignored"),
        "later": ("empty-class", "ignored"),
    }
    assert all(problem.reason for problem in manifest.problems)
    used = {item.id: item.flags for item in manifest.items}
    assert {id for id in used if not id[4].isdigit()} == {"cat/e.jpg", "cat/f.jpg", "cat/g.png"}
    assert used["cat/f.jpg"] == ("cmyk",)
    assert manifest.summary().startswith("15 pictures in 2 classes (train ")
    assert "2 wrong-name" in manifest.summary()
    load(manifest).arrays("train")


def test_fail_names_the_first_and_the_number(root):
    (root / "cat" / ".hidden").write_bytes(b"x")
    check(root, on_bad_image="fail")
    (root / "cat" / "a.png").write_bytes(b"")
    (root / "dog" / "b.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"2 bad pictures, the first is: cat/a\.png.*empty: 0 bytes"
    ):
        check(root, on_bad_image="fail")


def test_locked_file_is_a_problem(root, tmp_path):
    locked = root / "cat" / "locked.png"
    locked.write_bytes(encoded(picture(50)))
    locked.chmod(0)
    expected = {} if os.access(locked, os.R_OK) else {"cat/locked.png": ("unreadable", "skipped")}
    assert codes(check(root)) == expected


def test_copies(root):
    shutil.copy(root / "cat/0.png", root / "cat/copy.png")
    shutil.copy(root / "cat/1.png", root / "dog/not-a-dog.png")
    manifest = check(root)
    assert codes(manifest) == {
        "cat/copy.png": ("duplicate", "skipped"),
        "cat/1.png": ("conflict", "skipped"),
        "dog/not-a-dog.png": ("conflict", "skipped"),
    }
    hashes = [item.sha256 for item in manifest.items]
    assert len(hashes) == len(set(hashes))


def test_links_out_of_the_folder_are_not_followed(root, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "s.png").write_bytes(encoded(picture(77)))
    (root / "cat/out.png").symlink_to(secret / "s.png")
    (root / "cat/tree").symlink_to(secret)
    (root / "cat/loop").symlink_to(root)
    (root / "cat/inside.png").symlink_to(root / "cat/0.png")
    assert codes(check(root)) == {
        "cat/out.png": ("outside", "skipped"),
        "cat/tree": ("outside", "skipped"),
        "cat/loop": ("linked-folder", "skipped"),
        "cat/inside.png": ("duplicate", "skipped"),
    }


def test_odd_file_names(root):
    names = ["ünï 图.png", "line\nbreak.png", "\x1b[31m.png", "x" * 251 + ".png", "<b>&.png", "-"]
    for i, name in enumerate(names):
        (root / "cat" / name).write_bytes(encoded(picture(100 + i)))
    (root / "cat" / "deep" / "er").mkdir(parents=True)
    (root / "cat" / "deep" / "er" / "p.png").write_bytes(encoded(picture(200)))
    with open(os.fsencode(root) + b"/cat/\xff.png", "wb") as file:  # noqa: PTH123
        file.write(encoded(picture(300)))
    manifest = check(root)
    ids = {item.id for item in manifest.items}
    assert {f"cat/{name}" for name in names} | {"cat/deep/er/p.png"} <= ids
    assert codes(manifest) == {r"cat/\udcff.png": ("bad-name", "skipped")}
    path = manifest.save(root.parent / "m.json")
    assert type(manifest).load(path) == manifest
    assert len(load(manifest).arrays("train")[0]) == len(manifest.select("train"))


def test_problem_paths_are_printable(root):
    (root / "cat" / "line\nbreak.png").write_bytes(b"")
    (root / "dog" / "line\nbreak.png").write_bytes(b"")
    assert list(codes(check(root))) == [r"cat/line\nbreak.png", r"dog/line\nbreak.png"]


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_splits_of_the_folder_are_respected(tmp_path, val):
    root = tmp_path / "data"
    for i, name in enumerate(("train", val, "test")):
        class_folders(root / name, n=3, first=i)
    (root / "extra").mkdir()
    manifest = check(root)
    assert codes(manifest) == {"extra": ("stray", "ignored")}
    for item in manifest.items:
        assert item.id.startswith("val" if item.split == "val" else f"{item.split}/")


@pytest.mark.parametrize("names", [("train",), ("train", "test"), ("train", "val")])
def test_missing_splits_are_cut_from_train(tmp_path, names):
    for i, name in enumerate(names):
        class_folders(tmp_path / "data" / name, n=10, first=i)
    manifest = check(tmp_path / "data")
    assert manifest.classes == ["cat", "dog"]
    assert all(n for split in manifest.counts().values() for n in split.values())
    for item in manifest.items:
        source = item.id.split("/")[0]
        assert source == "train" or source == item.split


def test_copy_in_train_and_test_stays_in_test(tmp_path):
    for i, name in enumerate(("train", "test")):
        class_folders(tmp_path / name, n=5, first=i)
    shutil.copy(tmp_path / "test/cat/0.png", tmp_path / "train/cat/leak.png")
    assert codes(check(tmp_path)) == {"train/cat/leak.png": ("duplicate", "skipped")}


@pytest.mark.parametrize("classes", [("train", "plane"), ("train", "test")])
def test_a_class_may_be_called_train(tmp_path, classes):
    assert check(class_folders(tmp_path / "d", classes=classes)).classes == sorted(classes)


def fails(data, *words):
    with pytest.raises(DataError) as caught:
        check(data)
    line = str(caught.value)
    assert caught.value.exit_code == 4
    assert "\n" not in line
    for word in words:
        assert word in line


def test_one_clear_line_for_data_that_cannot_be_used(tmp_path):
    fails(tmp_path / "missing", "Cannot open the data", "missing", "No such file")
    fails(tmp_path / ("x" * 300), "File name too long")
    fails("nul\0byte", "Cannot open")
    fails(tmp_path, "The folder is empty")
    (tmp_path / "a.png").write_bytes(encoded(picture(0)))
    fails(tmp_path, "No class folders with pictures", "a sub-folder for each class")
    fails(tmp_path / "a.png", "Not a data source", ".npz")
    class_folders(tmp_path, classes=("cat",))
    fails(tmp_path, "Only one class", "cat", "at least two")
    class_folders(tmp_path, n=1, classes=("dog",), first=1)
    fails(tmp_path, "Too few usable pictures in class: dog", "at least 2", "1, of which 1")
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(b"")
    fails(tmp_path, "No usable picture", "cat/0.png", "0 bytes")


def test_class_that_loses_all_its_pictures_is_named(root):
    for path in (root / "dog").iterdir():
        path.write_bytes(b"GIF8")
    fails(
        root,
        "Too few usable pictures in class: dog",
        "0, of which 0",
        "6 bad, first dog/0.png: the head",
    )


def test_class_out_of_reach_is_named(root, tmp_path):
    class_folders(tmp_path / "elsewhere", classes=("cow",), first=1)
    (root / "cow").mkdir()
    (root / "cow" / "all").symlink_to(tmp_path / "elsewhere" / "cow")
    fails(root, "Too few usable pictures in class: cow", "0, of which 0")


def test_class_without_training_pictures_is_named(tmp_path):
    class_folders(tmp_path / "train", n=4)
    class_folders(tmp_path / "test", n=4, classes=("cat", "cow", "dog"), first=1)
    fails(tmp_path, "class: cow", "4, of which 0 for training")


def test_two_pictures_a_class_leave_nothing_to_validate(tmp_path):
    fails(class_folders(tmp_path / "d", n=2), "none is left for val", "at least 3")


def test_class_name_must_be_printable(tmp_path):
    for name, shown in (("a\nb", r"a\nb"), (os.fsdecode(b"\xff"), r"\udcff"), (" ", "' '")):
        root = class_folders(tmp_path / str(len(shown)), classes=(name, "c"))
        fails(root, "cannot be a class name", shown, "Rename the class")


def test_path_must_be_text(tmp_path):
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    fails(tmp_path / os.fsdecode(b"\xff"), r"\udcff", "not valid UTF-8")


def test_linked_class_folders_are_explained(root, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "cat").symlink_to(root / "cat")
    fails(tmp_path / "links", "No class folders", "cat: a link that leaves the folder")


def test_changed_source_is_named_on_load(root):
    manifest = check(root)
    load(manifest)
    picture(1234).save(root / "cat/3.png")
    with pytest.raises(DataError, match=r"changed.*cat/3\.png.*other content"):
        load(manifest)
    (root / "cat/3.png").unlink()
    with pytest.raises(DataError, match=r"changed.*cat/3\.png.*No such file"):
        load(manifest)


def test_new_files_do_not_disturb(root):
    manifest = check(root)
    picture(1234).save(root / "cat/new.png")
    assert len(load(manifest).arrays("test")[0]) == 2


def test_natural_size_and_channels(tmp_path):
    shapes = {}
    for side, mode in ((10, "L"), (50, "LA"), (500, "RGB")):
        root = class_folders(tmp_path / str(side), n=3, size=(side, side // 2), mode=mode)
        shapes[side] = load(check(root)).image_shape
    assert shapes == {10: (32, 32, 1), 50: (48, 48, 1), 500: (64, 64, 3)}
    picture(9).save(tmp_path / "10" / "cat" / "colour.png")
    manifest = check(tmp_path / "10")
    assert load(manifest).image_shape == (32, 32, 3)
    shutil.rmtree(manifest.path)  # The manifest says it.
    assert image_shape(manifest) == (32, 32, 3)
    assert image_shape(manifest, [20, 30], 1) == (20, 30, 1)
