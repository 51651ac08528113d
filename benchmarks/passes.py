"""Measures time and memory of every pass and every file format on ResNet-50 at 224x224.

    python -m benchmarks.passes                            # 40 minutes of one core
    python -m benchmarks.passes low-rank:method=svd onnx   # some of them

The network of `keras.applications` has random weights and 1000 classes; the data are 64 random
pictures, in training in batches of 16. Each case runs in a process of its own, whose peak memory
counts TensorFlow, the network and the pictures too; seconds and CPU seconds are of the pass alone.
`low-rank:method=cp`, which fits every kernel anew, is left out. The rows go into
`benchmarks/passes.md`; those of cases that did not run this time stay.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnkit import files
from cnnkit import registry

TABLE = Path(__file__).with_suffix(".md")
SHAPE, CLASSES = (224, 224, 3), 1000
PICTURES, BATCH = 64, 16
# What the surgery of channels may take, and any pass.
SURGERY, SECONDS, GIB = "prune-filters", 60, 6.0
FILTERS = "l1 l2 bn-gamma apoz taylor obd random group-lasso"
WEIGHTS = "magnitude lamp obd fisher obs"
LOW_RANK = "auto svd spatial channel tucker"
FORMATS = "tflite tflite-fp16 tflite-dynamic tflite-int8 onnx onnx-int8 savedmodel"
CASES = [
    *(f"prune-filters:criterion={name}" for name in FILTERS.split()),
    *(f"prune-weights:saliency={name},measure=false" for name in WEIGHTS.split()),
    *(f"low-rank:method={name}" for name in LOW_RANK.split()),
    "qat:epochs=1",
    *FORMATS.split(),
]
HEAD = "| pass or format | seconds | CPU seconds | peak GiB | within limits |\n" + "|---" * 5 + "|"


def job(case: str, folder: Path) -> Callable[[], Any]:
    """Returns what is to be timed; the network and the pictures exist before."""
    import keras
    import numpy as np

    from cnnkit.training.fit import fit
    from export import formats
    from export import passes
    from export.pipeline import PassData

    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None, input_shape=SHAPE, classes=CLASSES)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (PICTURES, *SHAPE)).astype(np.uint8)
    y = rng.integers(0, CLASSES, PICTURES)
    if case in formats.FORMATS:
        format_ = formats.get(case)
        options: dict[str, Any] = (
            {"variant": format_.variant} if format_.variant != "float32" else {}
        )
        if format_.needs_calibration:
            options["calibration"] = x
        return lambda: format_.load().write(model, folder / "file", **options)

    class Pictures:
        def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
            return (x, y) if split == "train" else (x[:0], y[:0])

    def train(small: keras.Model, **options: Any) -> keras.Model:
        fit(small, Pictures(), **{"epochs": 1, "batch_size": BATCH, "lr": 1e-4, **options})
        return small

    data = PassData(x.astype("float32"), y, recover=lambda small: small, train=train)
    return lambda: passes.parse(case).apply(model, data)


def child(case: str) -> None:
    """Measures one case and prints its numbers as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        run = job(case, Path(folder))
        start, used = time.perf_counter(), time.process_time()
        run()
        seconds, cpu = time.perf_counter() - start, time.process_time() - used
    # Linux counts it in KiB.
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu": cpu, "gib": gib}) + "\n")


def measure(case: str) -> str:
    """Returns the row of a case, which is measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.passes", "--child", case],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode:
        return f"| {case} | | | | its process ended with {done.returncode} |"
    found = json.loads(done.stdout.splitlines()[-1])
    slow = case.startswith(SURGERY) and found["cpu"] > SECONDS
    good = not slow and found["gib"] <= GIB
    return (
        f"| {case} | {found['seconds']:.1f} | {found['cpu']:.1f} | {found['gib']:.1f} "
        f"| {'yes' if good else 'no'} |"
    )


def write(rows: dict[str, str]) -> None:
    """Puts the rows into the table, in the order of the cases."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    known = {line.split(" | ")[0][2:]: line for line in lines if line.startswith("| ")} | rows
    title = (
        "# Time and memory of every pass\n\nResNet-50 at 224x224 with 1000 classes and "
        f"{PICTURES} pictures, made by `python -m benchmarks.passes`, whose text says what the "
        f"columns are. The limits are {SECONDS} CPU seconds for `{SURGERY}`, and {GIB:g} GiB."
    )
    found = [known[case] for case in CASES if case in known]
    files.write_text(TABLE, "\n".join([title, "", HEAD, *found]) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Measures the cases that are named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="a row of the table")
    parser.add_argument("--child", metavar="CASE", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child)
        return 0
    for case in [registry.known("case", case, CASES) for case in args.cases] or CASES:
        row = measure(case)
        write({case: row})
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
