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
