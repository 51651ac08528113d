"""`--dry-run`: all of it, soon over, and never taken for a result."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from cnnkit.training.dry_run import TOLD
from cnnkit.training.train import Run

# Accuracy may not fall at all, and would: nothing is learned.
SETS = [
    *("--set", "export.formats=['tflite', 'tflite-int8']", "--set", "export.max_drop=0"),
    *("--set", "train.unfreeze=stages:head=3,deep=6", "-m", "lenet300"),
    *("--set", "export.target=litert-cpu:flash=1MB"),
]


def of_two_epochs(folder):
    """Makes sure that a run folder says what it is, and returns it."""
    run = Run.open(folder)
    assert run.recipe.guard.dry_run
    assert (run.recipe.train.epochs, len(run.metrics)) == (2, 2)
    assert {split: len(run.manifest.select(split)) for split in run.manifest.counts()} == {
        "train": 64,
        "val": 64,
        "test": 64,
    }
    assert all(min(counts.values()) > 0 for counts in run.manifest.counts().values())
    told = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert next(row["text"] for row in told if row["event"] == "warn") == TOLD
    origins = json.loads((folder / "config.resolved.json").read_text())
    assert origins["train.epochs"] == {"value": 2, "from": "dry run"}
    assert origins["train.batch_size"] == {"value": 32, "from": "chosen from the data"}
    return run


def test_run(cnnkit):
    done = cnnkit("run", "digits", "--dry-run", *SETS)
    assert (done.code, done.errors) == (0, [])
    assert f"warning: {TOLD}" in done.err
    (about,) = re.findall(r"fits litert-cpu: no notes, about ([\d,]+) bytes", done.out)
    assert "card: saved_models/digits-dry-run/MODEL_CARD.md" in done.out
    of_two_epochs(Path("runs/digits-dry-run"))
    bundle = Path("saved_models/digits-dry-run")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [row["ok"] for row in manifest["verdicts"]] == [True, True]
    assert manifest["notes"][0] == TOLD
    # Of the network as it is, before it is compressed.
    assert manifest["target"]["size_bytes"] < int(about.replace(",", "")) < 10**6
    assert f'<p class="box unknown">This is {TOLD}.</p>' in (bundle / "report.html").read_text()
    assert tomllib.loads((bundle / "config.toml").read_text())["guard"]["dry_run"]
    assert cnnkit("verify", bundle).code == 0
    assert not Path("runs/digits").exists()  # where the run itself will be


def test_train(cnnkit):
    done = cnnkit("train", "digits", "--dry-run", "--out", "there", *SETS)
    assert (done.code, done.errors) == (0, [])
    assert "there: " in done.out
    assert " parameters, a dry run" in done.out
    of_two_epochs(Path("there"))
    assert TOLD in Path("there/bundle/report.html").read_text()
    assert cnnkit("verify", "there/bundle").code == 0
    assert cnnkit("train", "digits", "--dry-run", "--out", "there").code == 2  # not unasked


@pytest.mark.parametrize("verb", ["run", "train"])
def test_a_wrong_recipe_fails_as_it_would_in_the_run(cnnkit, verb):
    done = cnnkit(verb, "digits", "--dry-run", "--set", "train.unfreeze=auto")
    assert done.code == 2
    assert "Only a network that knows something" in done.err
    assert not Path("runs").exists()
