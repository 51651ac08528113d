"""Files side by side: their times, memory and limits."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnnkit.errors import UsageError
from export import bench
from export import timing

BUNDLE = Path(__file__).parents[2] / "saved_models" / "lenet_8kb"


def sleeper(ms):
    return lambda x: time.sleep(ms / 1000)


def test_turns_meet_the_same_machine():
    order = []
    predictors = {name: lambda x, name=name: order.append(name) for name in "abc"}
    found = timing.interleaved(predictors, np.zeros((2, 2, 1)), turns=6)
    assert list(found) == ["a", "b", "c"]
    turns = ["".join(order[k : k + 3]) for k in range(0, len(order), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    # Each comes first as often as the others.
    assert sorted(turn[0] for turn in turns[-6:]) == ["a", "a", "b", "b", "c", "c"]


def test_times_and_their_order():
    both = {"slow": sleeper(6), "quick": sleeper(2)}
    found = timing.interleaved(both, np.zeros((1, 1, 1)), 5)
    for name, ms in (("slow", 6), ("quick", 2)):
        taken = found[name]
        assert ms <= taken.least <= taken.p10 <= taken.p50 <= taken.p95
    assert min(found, key=lambda name: found[name].least) == "quick"


def test_percentiles_are_those_of_numpy():
    times = list(range(1, 101))
    assert timing.of(times) == timing.Timing(1, 10.9, 50.5, 95.05)


def test_all_files_of_a_bundle(tmp_path):
    entries = bench.entries([BUNDLE])
    assert [entry.kind for entry in entries] == ["keras", "tflite", "onnx"]
    assert [entry.numbers for entry in entries] == ["float32", "int8", "int8"]
    assert len({entry.macs for entry in entries}) == 1
    rows, peaks = bench.measure(entries[1:], threads=(1, 2), turns=3)
    assert [(row.entry.kind, row.threads) for row in rows] == [
        ("tflite", 1),
        ("onnx", 1),
        ("tflite", 2),
        ("onnx", 2),
    ]
    for row in rows:
        gops = 2 * row.entry.macs / row.time.least / 1e6
        assert row.share == pytest.approx(gops / peaks[row.threads]["int8"])
        assert row.size_bytes == row.entry.path.stat().st_size
        assert 0 < row.memory_bytes < 2**27
        assert row.to_dict()["time"]["p50"] == row.time.p50
    assert all(peak["float32"] > 1 and peak["int8"] > 1 for peak in peaks.values())


def row_of(entry, ms=2.0, size=1000):
    return bench.Result(entry, 1, timing.Timing(1.0, 1.5, ms, 3.0), size, None, None)


def test_limits():
    entry = replace(bench.entries([BUNDLE])[1], drop=0.004)
    row = row_of(entry)
    assert bench.breaches(row, max_latency=2.0, max_size=1000, max_drop=0.004) == []
    assert bench.breaches(row, max_latency=1.9) == ["takes 2 ms, --max-latency is 1.9ms"]
    assert bench.breaches(row, max_size=999) == ["has 1000 bytes, --max-size is 999"]
    assert bench.breaches(row, max_drop=0.001) == ["loses 0.0040 of accuracy, --max-drop is 0.001"]
    reference = replace(entry, kind="keras", reference=True)
    assert bench.breaches(row_of(reference), max_latency=0, max_size=1, max_drop=0) == []


def test_accuracy_outside_of_a_bundle():
    (entry,) = bench.entries(BUNDLE.glob("tflite/*"))
    assert entry.macs is None
    with pytest.raises(UsageError, match="The accuracy of this file is not known"):
        bench.breaches(row_of(entry), max_drop=0.1)


@pytest.mark.parametrize("options", [{"threads": (0,)}, {"turns": 0}])
def test_wrong_numbers(options):
    with pytest.raises((UsageError, ValueError)):
        bench.measure(bench.entries([BUNDLE])[1:2], **options)


def test_a_file_that_cannot_be_run(tmp_path):
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"0000TFL3" + bytes(50))
    with pytest.raises(UsageError, match=r"broken\.tflite"):
        timing.peak_memory(broken, (28, 28, 1))
