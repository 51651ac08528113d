"""Measures what batching and more servers buy in TF Serving, on the signatures that it would run.

    python -m benchmarks.signatures                                # about a minute; two cores
    python -m benchmarks.signatures saved_models/mine --seconds 1

The Keras model of the bundle, `saved_models/lenet_8kb` if no other is named, is written as a
SavedModel. Processes that have loaded it run one signature again and again on one thread, with as
many pictures a call as the batches that `batching.config` allows: first one process, then one for
each core at once, as servers behind a balancer would. Files are JPEG, twice the model's size. What
a server adds, the network and its queue, is not in these numbers. The rows go into
`benchmarks/signatures.md`.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apps.rest.served import cores
from cnnkit import files
from cnnkit.data.pictures import of_pixels
from export.bundle import Bundle
from export.formats import saved_model
from export.formats.metadata import INPUT
from export.formats.serving import BATCH_SIZES
from export.formats.signatures import BYTES
from export.formats.signatures import INPUT_BYTES
from export.formats.trace import SIGNATURE

TABLE = Path(__file__).with_suffix(".md")
BUNDLE = Path("saved_models/lenet_8kb")
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
HEAD = (
    "| signature | pictures a call | processes | pictures/s | p50 ms a call | p99 ms a call |\n"
    + "|---" * 6
    + "|"
)


def work(folder: str) -> None:
    """The child: prints the seconds of each call, for lines `[signature, pictures, seconds]`."""
    import tensorflow as tf

    model = tf.saved_model.load(folder)
    described = saved_model.metadata(Path(folder))
    shape = described.input_shape if described else ()
    height, width, channels = shape
    rng = np.random.default_rng(0)
    image = of_pixels(rng.integers(0, 256, (2 * height, 2 * width, channels)).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG")
    for line in sys.stdin:
        name, size, seconds = json.loads(line)
        if name == SIGNATURE:
            x = rng.integers(0, 256, (size, *shape))
            given = {INPUT: tf.constant(x, tf.float32)}
        else:
            given = {INPUT_BYTES: tf.constant([file.getvalue()] * size)}
        call, taken = model.signatures[name], []
        for _ in range(3):
            call(**given)
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            call(**given)
            taken.append(time.perf_counter() - start)
        sys.stdout.write(json.dumps(taken) + "\n")
        sys.stdout.flush()


def rows(folder: Path, seconds: float) -> list[list[str]]:
    """Returns the cells of the table."""
    command = [sys.executable, "-m", "benchmarks.signatures", "--child", str(folder)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [
        subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, **pipes) for _ in range(cores())
    ]
    found = []
    try:
        asked(children, [SIGNATURE, 1, 0.1])  # now all are ready
        for name in (SIGNATURE, BYTES):
            for size in BATCH_SIZES:
                for count in dict.fromkeys((1, len(children))):
                    told = asked(children[:count], [name, size, seconds])
                    taken = [t for calls in told for t in calls]
                    p50, p99 = (1000 * float(np.percentile(taken, q)) for q in (50, 99))
                    rate = size * len(taken) / seconds
                    numbers = (str(size), str(count), f"{rate:.0f}", f"{p50:.2f}", f"{p99:.2f}")
                    found.append([f"`{name}`", *numbers])
    finally:
        for child in children:
            child.kill()
            child.communicate()
    return found


def asked(children: Sequence[Any], task: list[Any]) -> list[list[float]]:
    """Returns what children answer that do a task at the same time."""
    for child in children:
        child.stdin.write(json.dumps(task) + "\n")
        child.stdin.flush()
    return [json.loads(child.stdout.readline()) for child in children]


def main(argv: list[str] | None = None) -> int:
    """Measures a bundle's model and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", nargs="?", type=Path, default=BUNDLE)
    parser.add_argument("--seconds", type=float, default=5, help="of each row")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        work(args.child)
        return 0
    opened = Bundle.open(args.bundle)
    with tempfile.TemporaryDirectory() as work_folder:
        folder = Path(work_folder, "1")
        saved_model.write(opened.model(), folder, labels=opened.labels, resize=opened.resize)
        cells = rows(folder, args.seconds)
    shape = "x".join(map(str, opened.manifest["input"]["shape"]))
    intro = (
        f"# The signatures of TF Serving\n\nThe model of `{args.bundle.as_posix()}`, pictures of "
        f"{shape}, {args.seconds:g} s a row. Made by `python -m benchmarks.signatures`, whose text "
        f"says what the columns are, on a machine of {cores()} cores."
    )
    text = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    files.write_text(args.table, f"{intro}\n\n{HEAD}\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
