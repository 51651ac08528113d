"""The reference bundles: small enough, unchanged, and as good as their cards say."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cnnkit import data
from cnnkit import files
from cnnkit.analysis import macs
from export import passes
from export import seal
from export.bundle import Bundle
from export.formats import tflite

ROOT = Path(__file__).parents[1] / "saved_models"
DATA = os.environ.get("CNNKIT_DATA")
# Bundle -> the most that its int8 file may have in bytes, its network in MACs, and wrong of 10,000.
LIMITS = {
    "lenet_6kb": (6_000, None, 100),
    "lenet_8kb": (8_000, None, 80),
    "lenet_150kflop": (None, 75_000, 90),
}
# Kernels differ between processors: so many pictures may get another answer there.
SLACK = 3


@pytest.fixture(params=LIMITS)
def name(request):
    return request.param


def opened(name):
    bundle = Bundle.open(ROOT / name)
    card = json.loads((bundle.folder / "card.json").read_text(encoding="utf-8"))
    return bundle, card, bundle.folder / card["file"]


def test_nothing_has_changed_since_the_export(name):
    bundle, card, path = opened(name)
    assert bundle.broken_files() == {}
    assert files.sha256(path) == card["sha256"]
    there = {p.relative_to(bundle.folder).as_posix() for p in bundle.folder.rglob("*.*")}
    assert there == {*bundle.manifest["files"], seal.MANIFEST, seal.DIGEST}


def test_the_file_and_the_network_keep_their_limits(name):
    bundle, card, path = opened(name)
    model, (most_bytes, most_macs, most_wrong) = bundle.model(), LIMITS[name]
    assert (macs.params(model), macs.total(model)) == (card["params"], card["macs"])
    assert path.stat().st_size == card["size_bytes"] <= (most_bytes or card["size_bytes"])
    assert card["macs"] <= (most_macs or card["macs"])
    assert card["wrong_of_10000"] <= most_wrong


def test_the_recipe_is_one(name):
    bundle, card, _ = opened(name)
    recipe = bundle.recipe()
    assert [passes.parse(p).name for p in recipe.compress.passes] == ["prune-filters", "qat"]
    assert card["command"].endswith(f"python -m benchmarks.tiny --records {name}")


@pytest.mark.export
def test_golden_pictures_get_their_answers(name):
    bundle, _, path = opened(name)
    golden = json.loads((bundle.folder / "golden.json").read_text(encoding="utf-8"))
    want = np.array([row["expected"]["tflite-int8"] for row in golden["pictures"]])
    got = tflite.run(path, bundle.golden_pictures().x)
    np.testing.assert_allclose(got, want, atol=0.02)
    labels = np.array([row["label_index"] for row in golden["pictures"]])
    assert (got.argmax(1) == labels).mean() >= 0.9


if DATA:  # not a skip: without the folder there is nothing to test

    @pytest.mark.export
    def test_the_errors_are_those_on_the_card(name):
        _, card, path = opened(name)
        x, y = data.load(data.check(Path(DATA, "mnist"))).arrays("test")
        wrong = int((tflite.run(path, x).argmax(1) != y).sum())
        assert abs(wrong - card["wrong_of_10000"]) <= SLACK
