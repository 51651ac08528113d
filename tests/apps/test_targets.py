"""Targets on the command line: listed, asked about, and checked before a training begins."""

import json

import pytest

from export import targets


def test_list(cnnkit):
    done = cnnkit("list", "targets", "--json")
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert list(told) == list(targets.TARGETS)
    for name, row in targets.TARGETS.items():
        assert all(part in told[name] for part in (*row.formats, row.int8, row.zeros, row.source))


def test_show_what_does_not_fit_and_what_would(cnnkit):
    done = cnnkit("show", "model", "resnet8", "--target", "tflm:flash=40KB,ram=64KB")
    assert (done.code, done.err) == (0, "")
    assert "resnet8 on tflm: does not fit" in done.out
    for text in ("86.8 kB", "40.0 kB", "64.0 kB", "flash 40,000", "prune-filters:ratio="):
        assert text in done.out
    assert "RAM, there are" not in done.out


def test_show_what_is_no_target(cnnkit):
    done = cnnkit("show", "model", "resnet8", "--target", "tflmicro")
    assert done.code == 2
    assert "Unknown target 'tflmicro'. Closest: tflm" in done.err


@pytest.mark.parametrize("verb", ["train", "run"])
def test_training_does_not_begin_where_it_would_not_fit(cnnkit, tmp_path, verb):
    sets = ("--set", "export.target=tflm:flash=4KB", "--set", "compress.passes=[]")
    done = cnnkit(verb, "digits", *sets)
    assert done.code == 3
    (error,) = done.errors
    assert "The network does not fit tflm: export.target=tflm:flash=4KB" in error
    assert "flash 4,000" in error
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_target_in_a_recipe(cnnkit):
    done = cnnkit("train", "digits", "--set", "export.target=tflm:flash=x")
    assert done.code == 2
    assert "Wrong flash of target 'tflm'" in done.err
