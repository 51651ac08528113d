"""In what order, and how often, the pictures of an epoch are seen.

A sampler `(labels, seed, epoch) -> indices` depends on these alone, whatever came before; all its
epochs are equally long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Sampler: TypeAlias = Callable[[np.ndarray, int, int], np.ndarray]


def over_sampled(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Returns every picture of the largest class once, and those of the others more than once.

    Each class is seen as often as the largest one has pictures, and equally often in every batch.

    Args:
        labels: Class numbers, `(n,)`.
        seed: Of the whole training.
        epoch: Counted from 0.

    Reference:
        Wei 2017, section 12.1.1. Differs: nothing.
    """
    return _rounds(labels, max(map(len, _members(labels))), seed, epoch)


def under_sampled(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Returns every picture of the smallest class once, and as many of each other class.

    Each class is seen equally often in every batch. No picture is thrown away: the next epochs go
    on with those of a class that have not been seen yet.

    Args:
        labels: Class numbers, `(n,)`.
        seed: Of the whole training.
        epoch: Counted from 0.

    Reference:
        Wei 2017, section 12.1.1. Differs: nothing.
    """
    return _rounds(labels, min(map(len, _members(labels))), seed, epoch)


def class_balanced(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Returns as many pictures as there are: for each a class is drawn, then a picture of it.

    A class hands out its pictures in turn, and mixes them again when all have been seen.

    Args:
        labels: Class numbers, `(n,)`.
        seed: Of the whole training.
        epoch: Counted from 0.

    Reference:
        Wei 2017, section 12.1.2. Differs: a class hands out no picture twice before all others.
    """
    members = _members(labels)
    drawn = np.random.default_rng((seed, epoch)).integers(len(members), size=len(labels))
    indices = np.empty(len(labels), np.int64)
    for k, pictures in enumerate(members):
        places = np.flatnonzero(drawn == k)
        indices[places] = _in_turn(pictures, 0, len(places), (seed, epoch, k))
    return indices


def label_shuffled(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Returns each class as often as the largest one has pictures, M times, in any order.

    For each class, a permutation of 0 … M - 1 modulo its number of pictures says which.

    Args:
        labels: Class numbers, `(n,)`.
        seed: Of the whole training.
        epoch: Counted from 0.

    Reference:
        Wei 2017, section 12.1.2, after S. Yang. Differs: nothing.
    """
    rng, members = np.random.default_rng((seed, epoch)), _members(labels)
    most = max(map(len, members))
    lists = [pictures[rng.permutation(most) % len(pictures)] for pictures in members]
    return rng.permutation(np.concatenate(lists))


SAMPLERS: dict[str, Sampler] = {
    "over": over_sampled,
    "under": under_sampled,
    "class_balanced": class_balanced,
    "label_shuffling": label_shuffled,
}


def _members(labels: np.ndarray) -> list[np.ndarray]:
    """Returns the pictures of each class that has some."""
    _, counts = np.unique(labels, return_counts=True)
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])


def _rounds(labels: np.ndarray, count: int, seed: int, epoch: int) -> np.ndarray:
    """Returns `count` rounds, in each of which every class comes once, in any order."""
    members, start = _members(labels), epoch * count
    columns = [_in_turn(m, start, count, (seed, k)) for k, m in enumerate(members)]
    rounds = np.stack(columns, 1)
    return np.random.default_rng((seed, epoch)).permuted(rounds, axis=1).ravel()


def _in_turn(pictures: np.ndarray, start: int, count: int, key: tuple[int, ...]) -> np.ndarray:
    """Returns a piece of an endless list, in which pictures are mixed anew when all have been."""
    first, offset = divmod(start, len(pictures))
    turns = range(first, first + 1 + (offset + count - 1) // len(pictures))
    # The 1 keeps these apart from the draws of (seed, epoch) and of longer keys.
    endless = [np.random.default_rng((*key, turn, 1)).permutation(pictures) for turn in turns]
    return np.concatenate(endless)[offset : offset + count]
