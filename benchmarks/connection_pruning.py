"""Prunes single weights of LeNet-5-Caffe on MNIST, as far as they can go.

    CNNKIT_DATA=mnist python -m benchmarks.connection_pruning              # an hour of one core
    CNNKIT_DATA=mnist python -m benchmarks.connection_pruning --seeds 0    # one of them

`CNNKIT_DATA` is a folder with the four IDX files. For each seed a network is trained, and then
pruned in steps: over some epochs by the cubic schedule, then fine-tuned. In both parts the rate
falls to zero by a cosine. At each factor all methods have the same epochs behind them:

- dense: the network as it was trained, and trained on for as long as the first step of pruning
- cnnkit: `prune-weights` as it is, one LAMP score for all layers
- TFMOT: its own `prune_low_magnitude` with `PolynomialDecay`, by `export.tfmot`: the same ratio in
  every layer by magnitude; the weights are those of the last epoch

An error is counted on the 10,000 test pictures, which nothing was chosen by; the standard error of
one count is about 9, of a mean of three 5. A factor is without loss if a network has on average at
most 5 more wrong than the one that was trained on with the same seed. Times are the least of 500
on one thread, in turns with the dense file: zeros are stored and multiplied like any number, so
about 1.00 is what to expect. The rows go into `benchmarks/connection_pruning.md`. What
`connection_pruning.json` holds from the same epochs is not made again.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from cnnkit import files
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    import keras

    from cnnkit.data import Dataset
    from cnnkit.training.recipe import Recipe

TABLE = Path(__file__).with_suffix(".md")
RUNS = Path(__file__).with_suffix(".json")
FACTORS = (12, 30)
EPOCHS, RAMP, FINETUNE = 6, 2, 2
TRAIN = {"epochs": EPOCHS, "batch_size": 128, "lr": 2e-3}
FINETUNE_LR = 1e-3
MARGIN = 5
SETTINGS = {"epochs": EPOCHS, "ramp": RAMP, "finetune": FINETUNE}
DENSE, TRAINED_ON, CNNKIT, TFMOT = "dense", "dense, trained on", "cnnkit", "TFMOT"
# Method -> factors, each of which starts from the network of the one before.
METHODS = {TRAINED_ON: (1,), CNNKIT: FACTORS, TFMOT: FACTORS}
HEAD = (
    "| method | factor | kernel weights left | by layer (conv1, conv2, fc1, logits) "
    "| wrong of 10,000, by seed | mean error | more wrong than trained on, in pairs "
    "| TFLite, zipped | LiteRT time against dense |\n|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Run:
    """One network of one seed."""

    seed: int
    method: str
    factor: int
    nonzeros: int
    layers: list[float]
    wrong: int
    zip_bytes: int
    latency_us: float
    dense_us: float
    seconds: float


def measure(seed: int, dataset: "Dataset", known: set[tuple[str, int]]) -> Iterator[Run]:
    """Trains, prunes and measures the networks of one seed that are not known."""
    import keras

    from cnnkit import models
    from cnnkit.training.fit import fit
    from cnnkit.training.recipe import resolve
    from cnnkit.training.train import deployable
    from export.pipeline import compress

    todo = {m: factors for m, factors in METHODS.items() if not known >= {(m, f) for f in factors}}
    if not todo and (DENSE, 1) in known:
        return
    keras.utils.set_random_seed(seed)
    mean, scale = dataset.statistics()
    dense = deployable(models.build("lenet5_caffe", (28, 28, 1), 10), mean, scale)
    recipe = resolve(
        train={**TRAIN, "seed": seed},
        compress={"finetune_epochs": FINETUNE, "finetune_lr": FINETUNE_LR},
    ).recipe
    start = time.perf_counter()
    fit(dense, dataset, **dict(recipe.train))
    yield _run(seed, DENSE, 1, dense, dense, dataset, start)
    for method, factors in todo.items():
        model = dense
        for factor in factors:
            start = time.perf_counter()
            if method == TFMOT:
                model = _with_tfmot(model, factor, dataset, recipe)
            else:
                step = f"prune-weights:ratio={1 - 1 / factor:.6f},epochs={RAMP},measure=false"
                model = compress(model, [step], dataset, recipe=recipe).model
            yield _run(seed, method, factor, model, dense, dataset, start)


def _with_tfmot(
    model: "keras.Model", factor: int, dataset: "Dataset", recipe: "Recipe"
) -> "keras.Model":
    from export import tfmot
    from export.pruning.kernels import kernels

    options = recipe.train.model_dump(include={"batch_size", "weight_decay", "seed"})

    def train(twin: Any, callbacks: list[Any]) -> None:
        for epochs in (RAMP, FINETUNE):
            tfmot.trainer(dataset, epochs=epochs, lr=FINETUNE_LR, **options)(twin, callbacks)

    values = [kernel.value() for kernel in kernels(model)[0]]
    zeros = sum(int((v == 0).sum()) for v in values) / sum(v.size for v in values)
    steps = RAMP * math.ceil(len(dataset.arrays("train")[1]) / recipe.train.batch_size)
    return tfmot.prune(model, train, steps=steps, sparsity=1 - 1 / factor, begin=zeros)


def _run(
    seed: int,
    method: str,
    factor: int,
    model: "keras.Model",
    dense: "keras.Model",
    dataset: "Dataset",
    start: float,
) -> Run:
    from benchmarks.sparsity import least_us
    from cnnkit.training.predict import predict_keras
    from export import ledger
    from export.formats import tflite
    from export.pruning.kernels import kernels

    seconds = time.perf_counter() - start
    values = [kernel.value() for kernel in kernels(model)[0]]
    left = [int((v != 0).sum()) for v in values]
    x, y = dataset.arrays("test")
    with tempfile.TemporaryDirectory() as folder:
        path = tflite.write(model, Path(folder, "model.tflite"))
        _, zipped = ledger.sizes(path)
        mine, other = least_us([path, tflite.write(dense, Path(folder, "dense.tflite"))], x[:1])
    return Run(
        seed=seed,
        method=method,
        factor=factor,
        nonzeros=sum(left),
        layers=[round(n / v.size, 4) for n, v in zip(left, values, strict=True)],
        wrong=int((predict_keras(model, x).argmax(1) != y).sum()),
        zip_bytes=zipped,
        latency_us=mine,
        dense_us=other,
        seconds=round(seconds, 1),
    )


def write(runs: list[Run]) -> None:
    """Writes the table and the numbers behind it."""
    runs = sorted(runs, key=lambda run: (run.seed, [DENSE, *METHODS].index(run.method), run.factor))
    files.write_json(RUNS, {"settings": SETTINGS, "runs": [asdict(run) for run in runs]})
    control = {run.seed: run.wrong for run in runs if run.method == TRAINED_ON}
    seeds = sorted({run.seed for run in runs})
    lines = [
        "# LeNet-5-Caffe on MNIST with fewer connections",
        "",
        f"Made by `python -m benchmarks.connection_pruning`, whose text says what the rows are; "
        f"seeds {', '.join(map(str, seeds))}. {EPOCHS} epochs of training; each step of pruning "
        f"takes {RAMP} more with the schedule and {FINETUNE} of fine-tuning, from the step above. "
        f"A dash is a network that was not made; after ± is the standard error of the mean. "
        f"Han et al. 2015: 12x, 0.80 % before and 0.77 % after.",
        "",
        HEAD,
    ]
    for method, factor in dict.fromkeys((run.method, run.factor) for run in runs):
        row = [run for run in runs if (run.method, run.factor) == (method, factor)]
        layers = (statistics.mean(column) for column in zip(*(r.layers for r in row), strict=True))
        cells = [
            method,
            f"{factor}x" if factor > 1 else "",
            f"{statistics.mean(r.nonzeros for r in row):,.0f}",
            ", ".join(f"{share:.1%}" for share in layers),
            ", ".join(str({r.seed: r.wrong for r in row}.get(seed, "-")) for seed in seeds),
            f"{statistics.mean(r.wrong for r in row) / 100:.2f} %"
            if len(row) == len(seeds)
            else "-",
            _paired([r.wrong - control[r.seed] for r in row if r.seed in control])
            if method not in (DENSE, TRAINED_ON)
            else "",
            f"{statistics.mean(r.zip_bytes for r in row):,.0f} B",
            f"{statistics.mean(r.latency_us / r.dense_us for r in row):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Largest factor without loss: {_largest(runs, control)}."]
    files.write_text(TABLE, "\n".join(lines) + "\n")


def _largest(runs: list[Run], control: dict[int, int]) -> str:
    told = []
    for method in (CNNKIT, TFMOT):
        fine, seeds = [], 0
        for factor in FACTORS:
            row = [run for run in runs if (run.method, run.factor) == (method, factor)]
            more = [run.wrong - control[run.seed] for run in row if run.seed in control]
            seeds = max(seeds, len(more))
            if more and statistics.mean(more) <= MARGIN:
                fine.append(f"{factor}x")
        told.append(f"{method} {fine[-1] if fine else 'none of these'} (seeds: {seeds})")
    return ", ".join(told)


def _paired(differences: list[int]) -> str:
    if len(differences) < 2:
        return "-"
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{statistics.mean(differences):+.1f} ± {error:.1f}"


def main(argv: list[str] | None = None) -> int:
    """Runs the seeds that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args(argv).seeds
    place = os.environ.get("CNNKIT_DATA")
    if not place:
        raise UsageError("No data", todo="set CNNKIT_DATA to the folder of MNIST's IDX files")
    import cnnkit.data

    dataset = cnnkit.data.load(
        cnnkit.data.check(place), image_size=None, channels=None, resize="letterbox"
    )
    old = json.loads(RUNS.read_text(encoding="utf-8")) if RUNS.exists() else {}
    runs = [Run(**row) for row in old["runs"]] if old.get("settings") == SETTINGS else []
    for seed in seeds:
        known = {(run.method, run.factor) for run in runs if run.seed == seed}
        for run in measure(seed, dataset, known):
            new = (run.seed, run.method, run.factor)
            runs = [r for r in runs if (r.seed, r.method, r.factor) != new] + [run]
            write(runs)
            sys.stdout.write(f"{run}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
