import math

import pytest

from cnnkit.errors import DataError
from cnnkit.training.recipe import resolve
from cnnkit.training.throughput import Stage
from cnnkit.training.throughput import Throughput
from cnnkit.training.throughput import measure
from tests.data.folders import class_folders

SMALL = ("model.name=lenet5", "model.width=0.25", "data.image_size=[28, 28]", "data.channels=1")


def stage(ms):
    return Stage("s", 32_000 / ms, ms)


def found(pipeline, step, whole):
    stages = stage(pipeline), stage(step), stage(whole)
    return Throughput("net", 32, (8, 8, 1), 100, stages, *stages)


@pytest.mark.parametrize(
    ("pipeline", "step", "whole", "share", "bound"),
    [
        (2, 40, 40, 0, False),
        (2, 40, 50, 0.2, False),
        (90, 10, 100, 0.9, True),
        (2, 41, 40, 0, False),  # a step is never quicker than it is alone: measured unluckily
    ],
)
def test_who_waits_for_whom(pipeline, step, whole, share, bound):
    result = found(pipeline, step, whole)
    assert result.share == pytest.approx(share)
    assert result.input_bound is bound


def test_stages_of_a_folder(tmp_path):
    root = class_folders(tmp_path / "d", n=30)
    sets = [*SMALL, "train.batch_size=8", "augment.horizontal_flip=on", f"data.path={root}"]
    result = measure(resolve(sets=sets).recipe, steps=3)
    assert [s.name for s in result.stages] == [
        "reading",
        "reading, decoding, resizing",
        "batches",
        "augmented batches",
        "step alone",
        "training",
    ]
    assert (result.model, result.batch_size, result.training) == ("lenet5", 8, 42)
    for each in result.stages:
        assert 0 < each.ms < math.inf
        assert each.ms * each.pictures_per_s == pytest.approx(1000 * result.batch_size)
    assert result.pipeline.name == "augmented batches"
    assert result.stages[1].ms > result.stages[0].ms
    assert 0 <= result.share < 1


def test_data_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="Cannot open"):
        measure(resolve(sets=[f"data.path={tmp_path / 'none'}"]).recipe)
