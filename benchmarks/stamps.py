"""A folder as users have them: what `imbalance.method` is worth on drawings in ten uneven classes.

    CNNKIT_DATA=DATA python -m benchmarks.stamps      # a quarter of an hour of one core

`DATA/stamps` holds the pictures of Tux Paint's stamps, a folder for each class: PNG files of four
modes, most of them transparent, from 32 to 96 pixels a side, 12 in the smallest class and 247 in
the largest. Each training is that of `cnnkit train`, and each is judged as its report does it.
"""

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import cnnkit
from benchmarks import trials
from cnnkit.errors import UsageError
from cnnkit.training import resolve
from cnnkit.training.evaluate import evaluate
from cnnkit.training.predict import predict_keras

SIDE, EPOCHS = 32, 20  # a quarter of the default's pixels, two thirds of its epochs
ARMS = ("none", "label_shuffling", "weights", "auto")


def trained(method: str, seed: int) -> dict[str, Any]:
    """Returns what the network of a method and a seed came to, on test pictures; in per cent."""
    sizes = [f"data.image_size=[{SIDE},{SIDE}]", f"train.epochs={EPOCHS}"]
    seeds = [f"train.seed={seed}", f"data.seed={seed}"]
    recipe = resolve(sets=[f"imbalance.method={method}", *sizes, *seeds])
    clock, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as place:
        run = cnnkit.train(folder(), recipe, Path(place, "run"))
        model, dataset = run.model(), run.dataset()
    row = {"cpu": time.process_time() - cpu, "seconds": time.perf_counter() - clock}
    scores = evaluate(partial(predict_keras, model), dataset)
    rarest = int(np.bincount(dataset.labels("train")).argmin())
    rates = {
        "macro_f1": scores.macro_f1,
        "low": scores.macro_f1_interval[0],
        "high": scores.macro_f1_interval[1],
        "accuracy": scores.accuracy,
        "least_accuracy": scores.interval[0],
        "majority": scores.majority,
        "rarest": scores.classes[rarest].recall,
    }
    return {**row, **{key: 100 * rate for key, rate in rates.items()}}


def folder() -> Path:
    """Returns where the pictures are.

    Raises:
        UsageError: If `CNNKIT_DATA` is not set.
    """
    if "CNNKIT_DATA" not in os.environ:
        raise UsageError("No data", todo="set CNNKIT_DATA to the folder that holds `stamps`")
    return Path(os.environ["CNNKIT_DATA"], "stamps")


def verdict(rows: list[dict[str, Any]]) -> str:
    """Returns whether the default is clearly better than always the same answer, in words."""
    default = [row for row in rows if row["arm"] == "auto"]
    if not default:
        return ""
    clear = sum(row["least_accuracy"] > row["majority"] for row in default)
    accuracy, majority = (np.mean([row[k] for row in default]) for k in ("accuracy", "majority"))
    least = min(row["least_accuracy"] - row["majority"] for row in default)
    better = "clearly better" if clear == len(default) else "not clearly better"
    return (
        f"The default, `auto`, is right on {accuracy:.1f} % of the test pictures, against "
        f"{majority:.1f} % by always answering the largest class, and is {better}: the lower end "
        f"of the 95 % interval of its accuracy is above that share with {clear} of {len(default)} "
        f"seeds, by {least:+.1f} points where it is closest."
    )


PLAN = trials.Plan(
    place=__file__,
    head=f"""# Drawings in ten uneven classes

Tux Paint's stamps, 731 pictures from 12 to 247 in a class, and ResNet-8, as `cnnkit train stamps
--set imbalance.method=…` trains it, but at {SIDE}x{SIDE} pixels and {EPOCHS} epochs, where the
default is 64x64 and 30: the methods are compared, and the accuracy is not the best that can be had.
Each seed has a split of its own; all methods of a seed have the same. An epoch of label shuffling
has as many pictures of each class as of the largest, the others as many as there are. Rates are of
the test pictures, 15 % of all. Macro F1 counts all classes alike; from and to are the means of its
95 % intervals by the bootstrap, as reports tell them, and the last column is over seeds. The rarest
class has two test pictures, so that its recall is rough. CPU seconds are of a training, checks of
the pictures included. Written by `python -m benchmarks.stamps`.
""",
    columns={
        "macro_f1": ("macro F1, %", ".1f"),
        "low": ("from", ".1f"),
        "high": ("to", ".1f"),
        "accuracy": ("accuracy, %", ".1f"),
        "majority": ("largest class, %", ".1f"),
        "rarest": ("recall of the rarest class, %", ".0f"),
        "cpu": ("CPU s", ".0f"),
    },
    settings={"side": SIDE, "epochs": EPOCHS},
    against={name: "none" for name in ARMS if name != "none"},
    note=verdict,
)

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(trials.run(PLAN, {name: partial(trained, name) for name in ARMS}))
