"""What `cnnkit check` and `cnnkit bench` say of data."""

import json

import pytest

from tests.data.folders import class_folders
from tests.data.test_groups import drawing
from tests.data.test_groups import drawings
from tests.data.test_groups import patients
from tests.data.test_tfrecord import some
from tests.data.test_tfrecord import write


def test_near_copies_and_sizes_are_printed_and_written(cnnkit, tmp_path):
    root = drawings(tmp_path / "pets")
    drawing((0, 3)).resize((20, 60)).save(root / "cat" / "narrow.png")
    drawing((0, 3)).resize((80, 80)).save(root / "dog" / "café.png")
    done = cnnkit("check", root, "--near-dups", "-o", "m.json")
    assert (done.code, done.err) == (0, "")
    for text in ("near-conflict", "dog/café.png", "1 of odd aspect", "width / height", "median"):
        assert text in done.out
    written = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert written["statistics"]["width"] == {"min": 20.0, "median": 96.0, "max": 96.0}
    assert written["statistics"]["aspect"]["min"] == pytest.approx(1 / 3)
    counts = written["statistics"]["counts"]
    assert sum(n for split in counts.values() for n in split.values()) == len(written["items"])
    by_id = {item["id"]: item for item in written["items"]}
    assert by_id["cat/narrow.png"]["flags"][-1] == "odd-aspect"
    assert by_id["dog/café.png"]["group"] == by_id["cat/03.png"]["group"]
    assert cnnkit("check", root, "--near-dups", "--strict").code == 4
    assert cnnkit("check", root, "--strict").code == 0


def test_groups_are_kept(cnnkit, tmp_path):
    root = patients(tmp_path / "d", 12)
    done = cnnkit("check", root, "--group-by", r"(p\d+)_", "-o", "m.json")
    assert (done.code, done.err) == (0, "")
    assert "12 groups" in done.out
    items = json.loads((tmp_path / "m.json").read_text())["items"]
    assert len({(item["group"], item["split"]) for item in items}) == 12


def test_a_class_that_a_split_lacks_is_a_problem(cnnkit, tmp_path):
    class_folders(tmp_path / "d")
    class_folders(tmp_path / "d", n=2, classes=("[cow]",), first=1)
    done = cnnkit("check", "d")
    assert done.code == 0
    assert "one-sided-class" in done.out
    assert "no picture of this class in val" in done.out
    strict = cnnkit("check", "d", "--strict")
    assert strict.code == 4
    assert "1 problem, the first is: [cow]. Received no picture of this class in val" in strict.err


def test_a_thousand_problems_are_not_a_thousand_lines(cnnkit, tmp_path):
    class_folders(tmp_path / "d")
    for i in range(1000):
        (tmp_path / "d" / "cat" / f"bad {i}.png").touch()
    done = cnnkit("check", "d", "-o", "m.json")
    assert "800 more are in the manifest" in done.out
    assert len(done.out.splitlines()) < 300
    assert len(json.loads((tmp_path / "m.json").read_text())["problems"]) == 1000


def test_records_by_a_pattern(cnnkit, tmp_path):
    write(tmp_path / "photos-0.tfrecord", some())
    write(tmp_path / "photos-1.tfrecord", some(first=1))
    done = cnnkit("check", "photos-*.tfrecord")
    assert (done.code, done.err) == (0, "")
    assert "48 pictures in 2 classes" in done.out
    (tmp_path / "photos-1.tfrecord").write_bytes(b"no record")
    done = cnnkit("check", "photos-*.tfrecord")
    assert done.code == 4
    assert "damaged or truncated: photos-1.tfrecord#0" in done.err


def test_bench_of_an_input(cnnkit):
    sets = [w for s in ("train.batch_size=64", "model.width=0.25") for w in ("--set", s)]
    done = cnnkit("bench", "--input", "digits", "--repeat", "2", "-m", "lenet300", *sets)
    assert (done.code, done.err) == (0, "")
    for text in (
        "lenet300 on 8x8x1, 64 pictures a batch",
        "step alone",
        "of a step of",
        "the bott",
    ):
        assert text in done.out
    assert "decoding" not in done.out.split("pictures a batch")[1]  # of arrays


def test_bench_as_json(cnnkit):
    done = cnnkit("bench", "--input", "digits", "--repeat", "2", "-m", "lenet300", "--json")
    told = json.loads(done.out)
    assert [stage["name"] for stage in told["stages"]] == ["batches", "step alone", "training"]
    assert told["input_bound"] in (True, False)
    assert 0 <= told["share"] < 1
