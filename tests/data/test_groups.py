"""Groups by path and by likeness, which no split may divide."""

import io
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image
from PIL import ImageEnhance

from cnnkit.data import Manifest
from cnnkit.data import check
from cnnkit.data import groups
from cnnkit.data import near
from cnnkit.errors import DataError
from cnnkit.errors import UsageError
from tests.data.folders import class_folders
from tests.data.folders import encoded
from tests.data.folders import picture


def drawing(seed, size=96):
    """A picture with shapes in it, as photographs have, and not only noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def drawings(root, n=12, classes=("cat", "dog")):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(n):
            drawing((label, i)).save(root / name / f"{i:02d}.png")
    return root


def patients(root, n=8, each=3):
    """`each` pictures of each of `n` patients, in one of two classes or in both."""
    for patient in range(n):
        for i in range(each):
            name = ("ill", "well")[(patient + (i == 0 and patient < 2)) % 2]
            (root / name).mkdir(parents=True, exist_ok=True)
            place = root / name / f"p{patient:03d}_{i}.png"
            place.write_bytes(encoded(picture((patient, i))))
    return root


def splits_of_groups(manifest):
    found = defaultdict(set)
    for item in manifest.items:
        found[item.group].add(item.split)
    return found


def codes(manifest):
    return {p.path: (p.code, p.action) for p in manifest.problems}


@pytest.mark.parametrize("seed", range(4))
def test_a_group_is_in_one_split(tmp_path, seed):
    manifest = check(patients(tmp_path / "d", 20), group_by=r"(p\d+)_", seed=seed)
    assert {item.group for item in manifest.items} == {f"p{k:03d}" for k in range(20)}
    assert all(len(splits) == 1 for splits in splits_of_groups(manifest).values())
    counts = manifest.counts()
    assert all(n for split in counts.values() for n in split.values())
    assert 36 <= sum(counts["train"].values()) <= 48
    assert manifest.statistics.groups == 20
    assert manifest.problems == []


def test_groups_of_renamed_and_reordered_files_stay(tmp_path):
    root = patients(tmp_path / "d", 20)
    before = {i.sha256: i.split for i in check(root, group_by=r"(p\d+)_").items}
    for path in root.rglob("*.png"):
        path.rename(path.with_name(f"z{9 - int(path.stem[-1])} {path.name[::-1]}.png"))
    after = {i.sha256: i.split for i in check(root, group_by=r"_(\d+p)").items}
    assert after == before


@pytest.mark.parametrize(
    ("pattern", "path", "name"),
    [
        (r"p\d+", "a/p12_3.png", "p12"),
        (r"(p)(\d+)", "a/p12_3.png", "p/12"),
        (r"^(?:train/)?\w+/(\w+?)_", "train/cat/clip7_001.jpg", "clip7"),
        (r"x(\d*)", "a/xy.png", ""),
        (r"q", "a/p.png", ""),
        ("folder", "a/b/c.png", "a/b"),
        ("日本", "a/日本 1.png", "日本"),
    ],
)
def test_names_of_groups(pattern, path, name):
    assert groups.keys([path, "a/p1 x1 q 日本/_.png"], pattern)[0] == name


def test_a_pattern_that_matches_nothing_shows_paths(tmp_path):
    root = class_folders(tmp_path / "d")
    with pytest.raises(
        UsageError, match=r"matches no picture: patient\\d.*cat/0\.png, .*dog/"
    ) as e:
        check(root, group_by=r"patient\d")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("pattern", ["(", "*", "[a", r"(?P<n>a)(?P<n>b)", "a{99999999999999}"])
def test_a_pattern_that_is_none(tmp_path, pattern):
    with pytest.raises(UsageError, match="group_by is no regular expression"):
        check(class_folders(tmp_path / "d"), group_by=pattern)


def test_a_pattern_that_takes_for_ever_is_given_up(monkeypatch):
    monkeypatch.setattr(groups, "_TIMEOUT_S", 1.0)
    start = time.monotonic()
    with pytest.raises(UsageError, match=r"takes more than 1 s: .*repetitions out of repetitions"):
        groups.keys(["a" * 60 + "!.png"], r"^(a+)+$")
    assert time.monotonic() - start < 5


def test_pictures_without_a_group_are_alone_and_told(tmp_path):
    root = patients(tmp_path / "d", 12)
    for i in range(2):
        (root / "ill" / f"other {i}.png").write_bytes(encoded(picture((99, i))))
    manifest = check(root, group_by=r"(p\d+)_")
    assert codes(manifest) == {"ill/other 0.png": ("no-group", "kept")}
    assert "nor 1 others" in manifest.problems[0].reason
    assert {item.group for item in manifest.items if "other" in item.id} == {""}


def test_class_folders_are_too_few_groups(tmp_path):
    with pytest.raises(DataError, match=r"groups of pictures: none is left for .*2 in all.*group"):
        check(class_folders(tmp_path / "d"), group_by="folder")


def test_folders_in_class_folders_are_groups(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        class_folders(tmp_path / "d" / name, classes=tuple("abcde"), n=3, first=label)
    manifest = check(tmp_path / "d", group_by="folder")
    assert len(splits_of_groups(manifest)) == 10
    assert all(len(splits) == 1 for splits in splits_of_groups(manifest).values())


def test_arrays_have_no_paths():
    with pytest.raises(UsageError, match="group_by needs pictures with paths: digits"):
        check("digits", group_by="a")


def test_group_that_the_source_has_in_two_splits_leaves_train(tmp_path):
    class_folders(tmp_path / "train", n=8)
    class_folders(tmp_path / "test", n=2, first=1)
    manifest = check(tmp_path, group_by=r"(\d)\.png")
    assert {p.path for p in manifest.problems} == {
        f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(2)
    }
    assert {p.code for p in manifest.problems} == {"leak"}
    assert "held out in test" in manifest.problems[0].reason
    assert all(len(splits) == 1 for splits in splits_of_groups(manifest).values())


CHANGES = {
    "compressed": lambda image: Image.open(_file(image, "JPEG", quality=60)),
    "halved": lambda image: image.resize((48, 48)),
    "enlarged": lambda image: image.resize((140, 140)),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "grey": lambda image: image.convert("L"),
}


def _file(image, format, **options):
    return io.BytesIO(encoded(image, format, **options))


def test_near_copies_are_found_and_stay_together(tmp_path):
    root = drawings(tmp_path / "d")
    for name, change in CHANGES.items():
        change(drawing((0, 3))).save(root / "cat" / f"03_{name}.png")
    manifest = check(root, near_dups=True)
    assert codes(manifest) == {f"cat/03_{n}.png": ("near-copy", "kept") for n in CHANGES}
    assert "from cat/03.png: they are one group" in manifest.problems[0].reason
    copies = [item for item in manifest.items if item.id.startswith("cat/03")]
    assert len(copies) == 1 + len(CHANGES)
    assert {item.group for item in copies} == {"cat/03.png"}
    assert len({item.split for item in copies}) == 1
    assert all("near-copy" in item.flags for item in copies)
    assert all(len(item.phash) == 16 for item in manifest.items)
    assert Manifest.load(manifest.save(tmp_path / "m.json")) == manifest
    assert "near-copy" not in check(root).summary()


def test_near_copy_in_another_class_is_told(tmp_path):
    root = drawings(tmp_path / "d")
    drawing((0, 3)).resize((50, 50)).save(root / "dog" / "really a cat.png")
    manifest = check(root, near_dups=True)
    assert codes(manifest) == {"dog/really a cat.png": ("near-conflict", "kept")}
    assert "one label may be wrong" in manifest.problems[0].reason
    flagged = {item.id: item.flags for item in manifest.items if item.flags}
    assert flagged == dict.fromkeys(("cat/03.png", "dog/really a cat.png"), ("near-conflict",))


def test_near_copy_of_a_test_picture_leaves_train(tmp_path):
    drawings(tmp_path / "train")
    class_folders(tmp_path / "test", n=3, first=5)
    drawing((1, 4)).resize((64, 64)).save(tmp_path / "test" / "dog" / "seen.png")
    manifest = check(tmp_path, near_dups=True)
    assert codes(manifest)["train/dog/04.png"] == ("leak", "skipped")
    assert "test/dog/seen.png" in {item.id for item in manifest.items}


def test_near_copies_join_groups(tmp_path):
    root = patients(tmp_path / "d", 12)
    drawing(0).save(root / "ill" / "p001_9.png")
    drawing(0, 60).save(root / "well" / "p004_9.png")
    manifest = check(root, group_by=r"(p\d+)_", near_dups=True)
    joined = {item.split for item in manifest.items if item.id[-9:-6] in ("001", "004")}
    names = {item.group for item in manifest.items if "p001" in item.id or "p004" in item.id}
    assert len(names) == len(joined) == 1


def test_pairs_are_those_of_all_comparisons():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**63, 300, np.uint64)
    for k in range(150, 300):  # few bits away from another one, and some equal to it
        for bit in rng.integers(0, 64, rng.integers(0, 9)):
            values[k] = (values[k - 150] if bit == 0 else values[k]) ^ np.uint64(1 << int(bit))
    values[299] = values[0]
    values[250:260] = values[100:110] ^ np.uint64(0b111)
    bits = np.bitwise_count(values[:, None] ^ values[None])
    expected = {(i, j) for i, j in np.argwhere(bits <= near.DISTANCE).tolist() if i < j}
    found = list(near.pairs([f"{value:016x}" for value in values.tolist()]))
    assert {(i, j) for i, j, _ in found} == expected
    assert all(bits[i, j] == n for i, j, n in found)


def test_many_equal_pictures_are_paired_with_the_first_alone():
    assert list(near.pairs(["00"] * 4)) == [(0, 1, 0), (0, 2, 0), (0, 3, 0)]


def test_near_copies_among_arrays(tmp_path):
    x = np.stack([np.asarray(drawing(i, 32)) for i in range(24)])
    x[7] = np.minimum(x[3], 240)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(24) % 2)
    manifest = check(tmp_path / "d.npz", near_dups=True)
    assert codes(manifest) == {"index 7": ("near-copy", "kept")}
    by_id = {item.id: item.split for item in manifest.items}
    assert by_id["3"] == by_id["7"]
    assert Manifest.load(manifest.save(tmp_path / "m.json")) == manifest


def test_pictures_that_are_all_alike_are_told(tmp_path):
    x = np.stack([np.asarray(drawing(i, 32)) for i in range(60)])
    x[:25] = x[0]
    x[:25, 0, 0, 0] = np.arange(25)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(60) % 2)
    manifest = check(tmp_path / "d.npz", near_dups=True)
    last = manifest.problems[-1]
    assert (last.path, last.code) == ("index 0", "near-chain")
    assert last.reason.startswith("25 of 60 pictures are one group of near copies")


def test_conflict_of_exact_copies_is_no_near_copy(tmp_path):
    root = drawings(tmp_path / "d")
    shutil.copy(root / "cat" / "01.png", root / "cat" / "copy.png")
    shutil.copy(root / "cat" / "02.png", root / "dog" / "copy.png")
    assert {code for code, _ in codes(check(root, near_dups=True)).values()} == {
        "duplicate",
        "conflict",
    }


def test_nothing_is_changed_on_disk(tmp_path):
    root = patients(tmp_path / "d", 12)
    paths = [root, *sorted(root.rglob("*"))]
    before = {path: os.stat(path) for path in paths}  # noqa: PTH116
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    check(root, group_by=r"(p\d+)_", near_dups=True)
    assert [root, *sorted(root.rglob("*"))] == paths
    for path in paths:
        now = path.stat()
        assert (now.st_size, now.st_mtime_ns) == (before[path].st_size, before[path].st_mtime_ns)
        path.chmod(before[path].st_mode)


def test_without_imagehash_the_extra_is_named(tmp_path):
    code = (
        "import sys; sys.modules['imagehash'] = None\n"
        "from apps.cli import main; sys.exit(main(['check', 'digits', '--near-dups']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: Near copies need the package imagehash. `pip install 'cnnkit[hash]'`.\n"
    )
