import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks import trials


def plan(tmp_path, **settings):
    return trials.Plan(
        place=str(tmp_path / "measured.py"),
        head="# Measured",
        columns={"wrong": ("wrong", ".1f")},
        settings=settings,
        against={"new": "old"},
    )


def lines(tmp_path):
    return (tmp_path / "measured.md").read_text(encoding="utf-8").splitlines()


def test_what_is_known_is_not_made_again(tmp_path):
    made = []

    def arm(seed):
        made.append(seed)
        return {"wrong": 10 + seed}

    trials.run(plan(tmp_path), {"old": arm}, ["--seeds", "2"])
    trials.run(plan(tmp_path), {"old": arm}, ["--seeds", "3"])
    assert made == [0, 1, 2]
    assert lines(tmp_path)[-1] == "| old | 3 | 11.0 ± 1.0 |  |"


def test_a_note_stands_below_the_table(tmp_path):
    counted = replace(plan(tmp_path), note=lambda rows: "" if len(rows) < 2 else f"{len(rows)}.")
    table = ["| old | 1 | 0.0 |  |", "| old | 2 | 0.0 |  |"]
    for seeds, below in ((1, []), (2, ["", "2."])):
        trials.run(counted, {"old": lambda _: {"wrong": 0}}, ["--seeds", str(seeds)])
        assert lines(tmp_path)[4:] == [table[seeds - 1], *below]


def test_numbers_of_other_settings_are_forgotten(tmp_path):
    for epochs in (1, 2):
        trials.run(plan(tmp_path, epochs=epochs), {"old": lambda _: {"wrong": 1}}, ["--seeds", "1"])
    kept = json.loads((tmp_path / "measured.json").read_text(encoding="utf-8"))
    assert kept["settings"] == {"epochs": 2}
    assert len(kept["rows"]) == 1


def test_all_arms_of_a_seed_come_before_the_next_seed(tmp_path):
    made = []
    arms = {
        name: lambda seed, name=name: made.append((name, seed)) or {"wrong": 0}
        for name in ("old", "new")
    }
    trials.run(plan(tmp_path), arms, ["--seeds", "2"])
    assert made == [("old", 0), ("new", 0), ("old", 1), ("new", 1)]


def test_difference_is_that_of_pairs_and_leaves_out_a_trial_without_a_number(tmp_path):
    old, new = {0: 10, 1: 30, 2: 50, 3: 70}, {0: 8, 1: 27, 2: 46}
    arms = {
        "old": lambda seed: {"wrong": old[seed]},
        "new": lambda seed: {"wrong": new[seed]} if seed in new else {"diverged": 1},
    }
    trials.run(plan(tmp_path), arms, ["--seeds", "4"])
    assert lines(tmp_path)[-1].startswith("| new | 4 | 27.0 ± 19.0 | -3.0 (")
    assert lines(tmp_path)[-1].endswith(") against old |")


def test_interval_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    pairs = rng.normal(2.0, 1.0, 5)
    low, high = stats.ttest_1samp(pairs, 0.0).confidence_interval(0.95)
    told = trials.difference(pairs, "old", ".6f")
    assert f"({low:+.6f} to {high:+.6f})" in told


@pytest.mark.parametrize(
    ("pairs", "shown"), [([1.0, 1.1, 0.9], True), ([1.0, -1.0, 0.5], False), ([0.0, 0.0], False)]
)
def test_a_difference_is_shown_where_its_interval_leaves_out_zero(pairs, shown):
    assert trials.difference(pairs, "old", ".1f").endswith(": none shown") != shown
