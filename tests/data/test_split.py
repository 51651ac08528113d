from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cnnkit.data.manifest import SPLITS
from cnnkit.data.manifest import Item
from cnnkit.data.split import assign
from cnnkit.data.split import deduplicate
from cnnkit.data.split import shares

FRACTIONS = (0.7, 0.15, 0.15)


def items(counts, split="train"):
    return [
        Item(f"{label}/{i}", label, split, f"hash {label} {i}")
        for label, n in enumerate(counts)
        for i in range(n)
    ]


@pytest.mark.parametrize("n", range(1, 60))
def test_shares_add_up_and_are_within_one_of_exact_or_one(n):
    counts = shares(n, FRACTIONS)
    assert sum(counts) == n
    assert counts[0] >= 1
    if n >= 3:
        assert min(counts) >= 1
    if n >= 7:
        assert all(abs(c - n * f) < 1 for c, f in zip(counts, FRACTIONS, strict=True))


def test_shares_by_hand():
    assert shares(2, FRACTIONS) == [1, 0, 1]
    assert shares(20, FRACTIONS) == [14, 3, 3]
    assert shares(100, (0.7, 0.15)) == [82, 18]


def test_every_class_is_divided_alike():
    got = Counter((item.label, item.split) for item in assign(items([20, 40, 3]), FRACTIONS, 0))
    assert [[got[label, split] for split in SPLITS] for label in range(3)] == [
        [14, 3, 3],
        [28, 6, 6],
        [1, 1, 1],
    ]


def test_split_depends_on_seed_and_content_only():
    first = items([30, 30])
    by_hash = {item.sha256: item.split for item in assign(first, FRACTIONS, 0)}
    renamed = [replace(item, id=f"new {item.id}") for item in first]
    order = np.random.default_rng(0).permutation(len(first))
    again = assign([renamed[i] for i in order], FRACTIONS, 0)
    assert {item.sha256: item.split for item in again} == by_hash
    assert {item.sha256: item.split for item in assign(first, FRACTIONS, 1)} != by_hash


def test_splits_of_the_source_stay_and_the_missing_one_is_cut_from_train():
    brought = [replace(item, id=f"t{item.id}") for item in items([5, 5], "test")]
    got = assign(items([17, 17]) + brought, FRACTIONS, 0)
    assert Counter(item.split for item in got) == {"train": 28, "val": 6, "test": 10}
    assert all(item.split == "test" for item in got if item.id.startswith("t"))


def test_copies_keep_the_one_that_is_held_out():
    one = Item("a", 0, "train", "same")
    two = Item("b", 0, "test", "same")
    kept, problems = deduplicate([one, two, Item("c", 1, "train", "other")])
    assert [item.id for item in kept] == ["b", "c"]
    assert [(p.path, p.code, p.action) for p in problems] == [("a", "duplicate", "skipped")]
    assert "b" in problems[0].reason


def test_copies_with_different_labels_all_go():
    same = [Item("a", 0, "train", "x"), Item("b", 1, "train", "x"), Item("c", 0, "test", "x")]
    kept, problems = deduplicate(same)
    assert kept == []
    assert [(p.path, p.code) for p in problems] == [(i, "conflict") for i in "abc"]
    assert [p.reason[-1] for p in problems] == ["b", "a", "b"]


def grouped(sizes, seed=0, classes=3):
    """Groups of `sizes` pictures, each of one class."""
    rng = np.random.default_rng(seed)
    return [
        Item(
            f"{g}/{i}",
            g % classes,
            "train",
            f"hash {rng.integers(2**60)}",
            group=f"g{g}" if n > 1 else "",
        )
        for g, n in enumerate(sizes)
        for i in range(n)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_groups_stay_whole_and_each_class_is_everywhere(seed):
    rng = np.random.default_rng(seed)
    some = grouped(rng.integers(1, rng.integers(2, 60), rng.integers(9, 40)), seed)
    got = assign(some, FRACTIONS, seed)
    groups = {(item.group, item.split) for item in got if item.group}
    assert len(groups) == len({name for name, _ in groups})
    assert {(item.label, item.split) for item in got} == {
        (label, split) for label in range(3) for split in SPLITS
    }


@pytest.mark.parametrize("seed", range(10))
def test_small_groups_come_as_close_as_single_pictures(seed):
    got = Counter((item.label, item.split) for item in assign(grouped([4] * 150), FRACTIONS, seed))
    for label in range(3):
        assert abs(got[label, "train"] - 140) <= 4
        assert abs(got[label, "val"] - 30) <= 4


@pytest.mark.parametrize("seed", range(10))
def test_groups_of_several_classes_are_stratified(seed):
    rng = np.random.default_rng(seed)
    some = [
        Item(f"{g}/{i}", label, "train", f"hash {seed} {g} {i}", group=f"g{g}")
        for g in range(60)
        for i, label in enumerate(rng.choice(4, 10, p=rng.dirichlet([1, 1, 1, 1])))
    ]
    got = assign(some, FRACTIONS, seed)
    whole = Counter(item.label for item in got)
    there = Counter((item.label, item.split) for item in got)
    for label in range(4):
        for split, fraction in zip(SPLITS, FRACTIONS, strict=True):
            assert abs(there[label, split] / whole[label] - fraction) < 0.06


def test_one_group_of_a_class_is_for_training():
    some = grouped([9, 9, 9, 9, 9, 9], classes=2) + [
        Item(f"only {i}", 2, "train", f"only {i}", group="only") for i in range(2)
    ]
    got = {item.id: item.split for item in assign(some, FRACTIONS, 0)}
    assert got["only 0"] == got["only 1"] == "train"


def test_a_picture_more_does_not_move_a_group():
    some = grouped([6] * 60)
    before = {item.group: item.split for item in assign(some, FRACTIONS, 0)}
    more = [*some, Item("new", 0, "train", "z", group="g0")]
    after = {item.group: item.split for item in assign(more, FRACTIONS, 0)}
    assert sum(after[name] != before[name] for name in before) <= 6
