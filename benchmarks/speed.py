"""Measures what channels removed and int8 buy in time: MobileNetV2 and ResNet-50 at 224x224.

    python -m benchmarks.speed                 # half an hour; two cores
    python -m benchmarks.speed MobileNetV2     # one of them

The networks of `keras.applications` have random weights and 1000 classes: sizes and times do not
depend on what a network knows. Each is written as it is and pruned with `prune-filters:ratio=0.5`,
MobileNetV2 also with widths that are multiples of 8; each as float32 and as int8; for LiteRT and
for ONNX Runtime. Files that were written before are not written again (`--work` says where they
are kept).

All files of a runtime take one picture each in turns, in one process, so that what else the machine
does meets them alike. Of one thread the CPU time is taken, which is that of the clock if the core
has nothing else to do; of two threads the time of the clock. Ratios are of the least times of all
turns, against the network as it is in float32 on the same runtime and threads. Dashes stand where a
median is so far above the least time that the machine was too busy to tell. The rows go into
`benchmarks/speed.md`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnkit import files
from cnnkit import registry

TABLE = Path(__file__).with_suffix(".md")
SHAPE = (224, 224, 3)
PASSES = {
    "as it is": "",
    "ratio=0.5": "prune-filters:ratio=0.5",
    "ratio=0.5, multiples of 8": "prune-filters:ratio=0.5,round_to=8",
}
# Half of the widths of ResNet-50 are multiples of 8 as they are.
NETWORKS = {"MobileNetV2": list(PASSES), "ResNet50": list(PASSES)[:2]}
TURNS = {"MobileNetV2": 50, "ResNet50": 15}
RUNTIMES = {"tflite": "LiteRT", "onnx": "ONNX Runtime"}
VARIANTS = ("float32", "int8")
THREADS = (1, 2)
PICTURES = 8  # for the ranges of int8
# Less is no gain: the noise of the least times.
GAIN = 0.95
# Where a median is more than so many times the least, the machine was too busy to tell.
BUSY = 1.5
KEYS = ("network", "channels", "weights", "runtime")
HEAD = (
    "| network | channels | weights | runtime | MACs | bytes | 1 thread: least ms | median ms "
    "| ratio | 2 threads: least ms | median ms | ratio |\n" + "|---" * 12 + "|"
)


def written(name: str, channels: str, work: Path) -> dict[str, Any]:
    """Returns the MACs and the files of a network, which are written unless they are there."""
    stem = f"{name}-{list(PASSES).index(channels)}"
    done = work / f"{stem}.json"
    if not done.is_file():
        import keras

        from cnnkit.analysis import macs
        from export import formats
        from export import passes

        keras.utils.set_random_seed(0)
        model = getattr(keras.applications, name)(weights=None, input_shape=SHAPE)
        if PASSES[channels]:
            model = passes.parse(PASSES[channels]).apply(model).model
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (PICTURES, *SHAPE)).astype(np.uint8)
        for kind in RUNTIMES:
            for variant in VARIANTS:
                path, module = work / f"{stem}-{variant}.{kind}", formats.module(kind)
                module.write(model, path, variant=variant, calibration=x)
        files.write_json(done, {"macs": macs.total(model)})
    return {"stem": stem, **json.loads(done.read_text(encoding="utf-8"))}


def times(paths: Sequence[Path], kind: str, threads: int, turns: int) -> list[list[float]]:
    """Returns the milliseconds of each file for one picture, one for each turn."""
    from export import formats

    now = time.process_time if threads == 1 else time.perf_counter
    predictors = [formats.module(kind).predictor(path, threads=threads) for path in paths]
    x = np.random.default_rng(0).integers(0, 256, (1, *SHAPE)).astype(np.uint8)
    found: list[list[float]] = [[] for _ in paths]
    for _ in range(turns):
        for predict, taken in zip(predictors, found, strict=True):
            start = now()
            predict(x)
            taken.append(1000 * (now() - start))
    return found


def rows(name: str, work: Path) -> list[dict[str, Any]]:
    """Returns what was measured on each file of a network; its files exist."""
    known = {channels: written(name, channels, work) for channels in NETWORKS[name]}
    cases = [(channels, variant) for channels in NETWORKS[name] for variant in VARIANTS]
    found = []
    for kind, runtime in RUNTIMES.items():
        paths = [
            work / f"{known[channels]['stem']}-{variant}.{kind}" for channels, variant in cases
        ]
        taken = [times(paths, kind, threads, TURNS[name]) for threads in THREADS]
        for number, ((channels, variant), path) in enumerate(zip(cases, paths, strict=True)):
            row = dict(zip(KEYS, (name, channels, variant, runtime), strict=True))
            row |= {"macs": known[channels]["macs"], "bytes": path.stat().st_size}
            row["times"] = [summary(all_[number], all_[0]) for all_ in taken]
            found.append(row)
    return found


def summary(taken: list[float], plain: list[float]) -> list[float] | None:
    """Returns the least time, the median and the ratio of the least ones; None if it is noise."""
    least, first = min(taken), min(plain)
    median = statistics.median(taken)
    noise = median > BUSY * least or statistics.median(plain) > BUSY * first
    return None if noise else [least, median, least / first]


def instructions() -> str:
    """Returns which of the instructions that matter for int8 the processor has, on Linux."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx_vnni": "VNNI", "avx512_vnni": "VNNI"}
    return " and ".join(dict.fromkeys(name for flag, name in known.items() if flag in flags))


def text(found: list[dict[str, Any]]) -> str:
    """Returns the page."""
    lines, slow = [], []
    order = list(PASSES)
    known = {tuple(row[key] for key in KEYS): row for row in found}
    for row in found:
        network, channels, weights, runtime = cells = [row[key] for key in KEYS]
        timed = [f"{x:.2f}" if x else "-" for three in row["times"] for x in three or [0.0] * 3]
        lines.append(
            f"| {' | '.join(cells)} | {row['macs']:,} | {row['bytes']:,} | {' | '.join(timed)} |"
        )
        # What this file has one thing more than.
        if weights != VARIANTS[0]:
            less = (network, channels, VARIANTS[0], runtime)
        else:
            less = (network, order[max(0, order.index(channels) - 1)], weights, runtime)
        for threads, mine, other in zip(THREADS, row["times"], known[less]["times"], strict=True):
            if known[less] is not row and mine and other and mine[0] > GAIN * other[0]:
                slow.append(
                    f"{', '.join(cells)}: {mine[0] / other[0]:.2f} of the time of "
                    f"{less[1]}, {less[2]} ({threads} thread{'s' * (threads > 1)})"
                )
    intro = (
        "# What channels removed and int8 buy in time\n\nOne picture of 224x224, made by "
        "`python -m benchmarks.speed`, whose text says what the columns are. The machine has "
        f"{os.cpu_count()} cores with {instructions()}, and other work to do: the ratios are what "
        "counts."
    )
    verdict = "\n".join(f"- {line}" for line in slow) or "- none"
    told = f"What does not get faster, or by less than {1 - GAIN:.0%}:"
    return "\n".join([intro, "", HEAD, *lines, "", told, "", verdict])


def main(argv: list[str] | None = None) -> int:
    """Measures the networks that are named, or all, and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="one of " + ", ".join(NETWORKS))
    parser.add_argument("--work", type=Path, default=Path("runs/speed"), help="kept there")
    parser.add_argument("--child", choices=("write", "time"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    names = [registry.known("network", name, NETWORKS) for name in args.names] or list(NETWORKS)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.child == "write":
        for channels in NETWORKS[names[0]]:
            written(names[0], channels, args.work)
        return 0
    if args.child == "time":
        files.write_json(args.work / f"{names[0]}.json", {"rows": rows(names[0], args.work)})
        return 0
    for name in names:
        # TensorFlow's threads and memory are no longer there when the times are taken.
        for step in ("write", "time"):
            command = [sys.executable, "-m", "benchmarks.speed", name, "--child", step]
            subprocess.run([*command, "--work", str(args.work)], check=True)
    known = [args.work / f"{name}.json" for name in NETWORKS]
    found = [
        json.loads(path.read_text(encoding="utf-8"))["rows"] for path in known if path.exists()
    ]
    files.write_text(TABLE, text([row for some in found for row in some]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
