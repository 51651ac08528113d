"""Seconds from MNIST's raw files to a trained network, and pictures a second against plain `fit`.

    CNNKIT_DATA=mnist python -m benchmarks.wall_clock      # a quarter of an hour; all cores

Each training is `cnnkit.train` in a process of its own, as a user's: the clock starts after the
imports, with the files on the disk, and stops when the 10,000 test digits are classified. It
includes the check of the files, the split, the trace of the graph, checkpoints and the run folder.
The recipes were tried out with seeds that are not those of the table.

Pictures a second are those of epochs after the first, of the same network on the same digits in
batches of as many, in turns: `cnnkit.training.fit` with everything that it does beside the steps,
validation left out, and `keras.Model.fit` on float32 arrays in memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.digits import Digits
from cnnkit import files
from cnnkit import models
from cnnkit.training import resolve
from cnnkit.training.fit import fit
from cnnkit.training.predict import predict_keras
from cnnkit.training.train import deployable
from cnnkit.training.train import train

TABLE = Path(__file__).with_suffix(".md")
RUNS, TURNS = 5, 3
NETWORK, WIDTH, BATCH = "lenet5_caffe", 0.4, 128
BOTH = (
    f"model.name={NETWORK}",
    f"model.width={WIDTH}",
    f"train.batch_size={BATCH}",
    "train.lr=8e-3",
    "train.warmup_epochs=0",
    "data.split=[0.98,0.01,0.01]",
)


@dataclass(frozen=True)
class Goal:
    """What is to be reached, and how.

    Attributes:
        accuracy: On the test digits, at least.
        seconds: At most.
        recipe: As `--set` takes it.
    """

    accuracy: float
    seconds: float
    recipe: tuple[str, ...]


GOALS = {
    "fast": Goal(0.990, 20, (*BOTH, "train.epochs=2")),
    "good": Goal(
        0.994,
        120,
        (
            *BOTH,
            "train.epochs=14",
            "train.ema=0.99",
            "loss.label_smoothing=0.05",
            "augment.preset=medium",
        ),
    ),
}


def once(goal: Goal, seed: int) -> dict[str, float]:
    """Returns what one training took and came to."""
    begun = time.perf_counter()
    recipe = resolve(sets=[*goal.recipe, f"train.seed={seed}"])
    with tempfile.TemporaryDirectory() as folder:
        run = train(os.environ["CNNKIT_DATA"], recipe, Path(folder, "run"))
        trained = time.perf_counter() - begun
        x, y = run.dataset().arrays("test")
        accuracy = float((predict_keras(run.model(), x).argmax(1) == y).mean())
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "training": trained, "accuracy": accuracy}


def apart(name: str, seed: int) -> dict[str, float]:
    """Returns what `once` does in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.wall_clock", "--once", name, "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


class _Clock(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self._begun)


def throughput() -> dict[str, float]:
    """Returns pictures a second of both ways to train."""
    digits = Digits()
    x, y = digits.x.astype("float32"), np.eye(10, dtype="float32")[digits.y]
    seconds: dict[str, list[float]] = {"cnnkit": [], "keras": []}
    for turn in range(TURNS):
        for name, taken in seconds.items():
            keras.utils.set_random_seed(turn)
            net = models.build(NETWORK, digits.x.shape[1:], 10, width=WIDTH)
            model, clock = deployable(net, *digits.statistics()), _Clock()
            options: dict[str, Any] = {"epochs": 2, "batch_size": BATCH, "callbacks": [clock]}
            if name == "cnnkit":
                fit(model, digits, lr=1e-3, keep_best=False, **options)
            else:
                model.compile(
                    keras.optimizers.AdamW(1e-3), "categorical_crossentropy", metrics=["accuracy"]
                )
                model.fit(x, y, verbose=0, **options)
            taken += clock.seconds[1:]
    return {name: len(x) / statistics.median(taken) for name, taken in seconds.items()}


def main(argv: list[str] | None = None) -> int:
    """Measures everything and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--once", choices=GOALS, help="train once and print what came out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.once:
        sys.stdout.write(f"{json.dumps(once(GOALS[options.once], options.seed))}\n")
        return 0
    rates = throughput()
    found = {name: [apart(name, seed) for seed in range(options.runs)] for name in GOALS}
    files.write_text(TABLE, text(found, rates))
    return 0


def text(found: dict[str, list[dict[str, float]]], rates: dict[str, float]) -> str:
    """Returns the table."""
    lines = [
        "# MNIST against the clock",
        "",
        f"Written by `python -m benchmarks.wall_clock`, whose text says how, on {os.cpu_count()} "
        "cores. Medians, and all runs in brackets.",
        "",
        "| recipe | asked | test accuracy | seconds | of which training | reached |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        goal = GOALS[name]
        accuracy, seconds, training = (
            [row[key] for row in rows] for key in ("accuracy", "seconds", "training")
        )
        reached = {
            "accuracy": statistics.median(accuracy) >= goal.accuracy,
            "time": statistics.median(seconds) <= goal.seconds,
        }
        missed = [what for what, yes in reached.items() if not yes]
        cells = [
            ", ".join(f"`{part}`" for part in goal.recipe),
            f"{goal.accuracy:.1%} in {goal.seconds:.0f} s",
            spread(accuracy, ".2%"),
            spread(seconds, ".1f"),
            spread(training, ".1f"),
            f"not the {' and the '.join(missed)}" if missed else "yes",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    ratio = rates["cnnkit"] / rates["keras"]
    lines += [
        "",
        f"{NETWORK} of {WIDTH:g} times the width in batches of {BATCH}: {rates['cnnkit']:,.0f} "
        f"pictures a second with the whole pipeline, {rates['keras']:,.0f} with plain "
        f"`keras.Model.fit`: {ratio:.2f}x.",
    ]
    return "\n".join(lines) + "\n"


def spread(values: list[float], form: str) -> str:
    """Returns the median, and all values."""
    return f"{statistics.median(values):{form}} ({', '.join(f'{v:{form}}' for v in values)})"


if __name__ == "__main__":
    sys.exit(main())
