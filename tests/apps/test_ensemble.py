import json

import numpy as np
import pytest
from PIL import Image

from cnnkit.training.recipe import resolve
from cnnkit.training.train import train

QUICK = ("model.name=lenet300", "train.epochs=2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with two runs of one split, and one of another. Read only."""
    folder = tmp_path_factory.mktemp("members")
    for name, options in {"a": [], "b": ["model.width=0.2"], "c": ["data.seed=1"]}.items():
        train("digits", resolve(sets=[*QUICK, *options]), folder / name)
    return folder


def test_an_ensemble_is_a_run_like_any_other(cnnkit, runs, tmp_path):
    done = cnnkit("ensemble", runs / "a", runs / "b", "--method", "vote")
    assert done.code == 0, done.err
    assert "vote of 2 members" in done.out
    assert "rejected test pictures" in done.out
    folder = tmp_path / "runs" / "a-ensemble"
    rows = json.loads((folder / "ensemble.json").read_text())["rows"]
    assert [f"{row['test_accuracy']:.4g}" in done.out for row in rows] == [True] * 3

    found = json.loads(cnnkit("eval", folder, "--json").out)
    assert found["accuracy"] == rows[-1]["test_accuracy"]
    seen = json.loads(cnnkit("eval", folder, "--json", "--tta", "5").out)
    assert (seen["pictures"], seen["nll"] != found["nll"]) == (found["pictures"], True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "grey.png")
    words = ("predict", folder, "grey.png", "--format", "json")
    plain, averaged = (
        json.loads(cnnkit(*words, *more).out)[0]["classes"] for more in ((), ("--tta", "5"))
    )
    assert plain != averaged
    assert sum(p for _, p in averaged) <= 1.0001
    assert cnnkit("export", folder, "--format", "tflite").code == 0
    assert cnnkit("ensemble", runs / "a", runs / "b").code == 2  # there is something already


def test_a_student_has_a_run_of_its_own(cnnkit, runs, tmp_path):
    done = cnnkit(
        *("ensemble", runs / "a", runs / "b", "--distill-to", "lenet300"),
        *("--set", "train.epochs=2", "--set", "model.width=0.1", "--out", "both"),
    )
    assert done.code == 0, done.err
    assert cnnkit("eval", "both-lenet300").code == 0
    assert (tmp_path / "both" / "ensemble.json").is_file()


def test_snapshots(cnnkit, runs, tmp_path):
    done = cnnkit("ensemble", runs / "b", "--method", "snapshot", "--cycles", 2, "--keep", 1)
    assert done.code == 0, done.err
    assert "snapshot 2 of 2" in done.out


def test_another_split_is_told(cnnkit, runs):
    done = cnnkit("ensemble", runs / "a", runs / "c")
    assert done.code == 2
    assert "The runs have different splits" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "avrage"), "Unknown method 'avrage'"),
        (("--distill-to", "lenet"), "Unknown model 'lenet'"),
        (("--set", "train.epoch=1"), "Unknown recipe key"),
    ],
)
def test_wrong_arguments(cnnkit, runs, tmp_path, words, message):
    done = cnnkit("ensemble", runs / "a", runs / "b", *words)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "runs").exists()


def test_too_many_views(cnnkit, runs):
    done = cnnkit("eval", runs / "a", "--tta", "8")
    assert done.code == 2
    assert "without mirror images" in done.err
