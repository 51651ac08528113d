"""What is served, and how much of the machine a client may ask for."""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Served:
    """A model behind the interface.

    Attributes:
        name: In URLs.
        version: In URLs, a number.
        input_shape: (height, width, channels) of the pictures.
        resize: Name of the resize rule.
        labels: Names of the classes.
        predictors: From raw pixels to probabilities. Each is called by one thread at a time.
        batches: Whether several pictures in one call take less time than one after the other.
    """

    name: str
    version: str
    input_shape: tuple[int, int, int]
    resize: str
    labels: tuple[str, ...]
    predictors: Sequence[Predict]
    batches: bool


@dataclass(frozen=True)
class Limits:
    """What is refused or cut off, so that no client can take the server from the others.

    Attributes:
        body_bytes: Longest body of a request.
        held_bytes: Longest bodies of all requests that are being answered.
        pictures: Most pictures in a request.
        pixels: Most pixels of a picture file, as its head says. Those of phones have 50 million.
        waiting: Most requests that wait for a worker.
        seconds: Longest time from the head of a request to the end of its answer.
        idle_s: Longest time in which a connection may come to the end of a request's head.
        batch: Pictures that are put into one call, where that saves time.
        batch_wait_s: Longest time that a picture waits for others to fill the batch.
    """

    body_bytes: int = 16 * 2**20
    held_bytes: int = 256 * 2**20
    pictures: int = 128
    pixels: int = 50 * 10**6
    waiting: int = 256
    seconds: float = 30.0
    idle_s: float = 10.0
    batch: int = 32
    batch_wait_s: float = 0.001


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
