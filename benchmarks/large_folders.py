"""Measures what many tiny pictures cost: 100,000 PNG files of 32x32 in ten classes.

    python -m benchmarks.large_folders             # about five minutes on one core
    python -m benchmarks.large_folders --n 1000    # of each class

The pictures are noise, made once in `--work` and kept there. Each way runs in a process of its own
and does one thing after another; the peak is that of the process so far, its 50 MB of Python and
NumPy included. CPU seconds are of all threads. `map` has decoded pixels in a mapped file, whose
pages count for the peak although the system can take them back at any time. The rows go into
`benchmarks/large_folders.md`.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnkit import data
from cnnkit import files

TABLE = Path(__file__).with_suffix(".md")
CLASSES, SIDE = 10, 32
WAYS = ("plain", "near copies", "map")
HEAD = "| way | step | CPU s | s | peak MB |\n|---|---|---|---|---|"


def make(root: Path, n: int) -> None:
    """Makes the pictures, unless they are there."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        folder = root / f"class {label}"
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(n):
            path = folder / f"{i:05d}.png"
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            if not path.exists():
                Image.fromarray(pixels).save(path, compress_level=1)


def rows(way: str, root: Path, work: Path) -> list[dict[str, Any]]:
    """Returns what the steps of a way cost, one after the other."""
    found: list[dict[str, Any]] = []

    def measured(step: str, do: Callable[[], Any]) -> Any:
        clock, cpu = time.perf_counter(), time.process_time()
        result = do()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        row = {"cpu": time.process_time() - cpu, "seconds": time.perf_counter() - clock}
        found.append({"way": way, "step": step, **row, "peak": peak})
        return result

    path = work / f"{way}.json"
    near = way == "near copies"
    manifest = measured("check", lambda: data.check(root, near_dups=near))
    if near:
        return found
    measured("write the manifest", lambda: manifest.save(path))
    manifest = measured("read the manifest", lambda: data.Manifest.load(path))
    limit = 0 if way == "map" else None
    dataset = measured("see that no file has changed", lambda: data.load(manifest, in_memory=limit))
    measured("decode the training split", lambda: dataset.arrays("train"))
    measured("mean and deviation", dataset.statistics)
    return found


def text(n: int, found: list[dict[str, Any]]) -> str:
    """Returns the page."""
    intro = (
        f"# {CLASSES * n:,} tiny pictures\n\nMade by `python -m benchmarks.large_folders"
        f"{'' if n == 10_000 else f' --n {n}'}`, whose text says what the columns are."
    )
    lines = [
        f"| {r['way']} | {r['step']} | {r['cpu']:.1f} | {r['seconds']:.1f} | {r['peak']:.0f} |"
        for r in found
    ]
    return "\n".join([intro, "", HEAD, *lines])


def main(argv: list[str] | None = None) -> int:
    """Makes the pictures, measures each way and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=10_000, help="pictures of each class")
    parser.add_argument("--work", type=Path, default=Path("runs/large_folders"), help="kept there")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    root = args.work / f"{args.n}"
    if args.child:
        found = rows(args.child, root, args.work)
        files.write_json(args.work / f"{args.child} {args.n}.rows.json", found)
        return 0
    make(root, args.n)
    found = []
    for way in WAYS:
        kept = args.work / f"{way} {args.n}.rows.json"
        if not kept.exists():
            command = [sys.executable, "-m", "benchmarks.large_folders", "--child", way]
            subprocess.run([*command, "--n", str(args.n), "--work", str(args.work)], check=True)
        found += json.loads(kept.read_text(encoding="utf-8"))
        files.write_text(TABLE, text(args.n, found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
