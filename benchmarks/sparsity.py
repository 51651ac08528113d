"""Measures what zeros among the weights buy on each target, and what they do not.

    python -m benchmarks.sparsity    # a minute; `pip install ethos-u-vela` for the last columns

LeNet-5-Caffe with random weights is pruned at once and written as files: sizes and times do not
depend on what a network knows. LiteRT's time is the least of 500 on one thread, float32, in turns
with the dense file. Ethos-U55 (128 MACs, 500 MHz) is Vela's own estimate for the int8 file, dashes
without Vela. The rows go into `benchmarks/sparsity.md`.
"""

import csv
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cnnkit import files

TABLE = Path(__file__).with_suffix(".md")
PASSES = """
    ratio=0 ratio=0.5 pattern=2:4 ratio=0.8 ratio=0.9 ratio=0.9,pattern=1x16 ratio=0.97
"""
TURNS = 500
HEAD = (
    "| prune-weights | zeros | .keras | zipped | .tflite | zipped | int8 .tflite | zipped "
    "| LiteRT time against dense | Ethos-U55 flash | Ethos-U55 time |\n" + "|---" * 11 + "|"
)


def rows() -> list[str]:
    """Returns a row of the table for each pass."""
    import keras

    from cnnkit import models
    from cnnkit.models.saving import save_model
    from cnnkit.training.train import deployable
    from export import ledger
    from export import passes
    from export.formats import tflite

    keras.utils.set_random_seed(0)
    dense = deployable(models.build("lenet5_caffe", (28, 28, 1), 10), [33.0], [78.0])
    x = np.random.default_rng(0).integers(0, 256, (100, 28, 28, 1)).astype(np.uint8)
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        reference = tflite.write(dense, folder / "dense.tflite")
        for options in PASSES.split():
            result = passes.parse(f"prune-weights:{options},measure=false").apply(dense)
            model = result.model
            float_, int8 = folder / "float.tflite", folder / "int8.tflite"
            tflite.write(model, float_)
            tflite.write(model, int8, variant="int8", calibration=x)
            paths = [save_model(model, folder / "model.keras"), float_, int8]
            sizes = [f"{n:,}" for path in paths for n in ledger.sizes(path)]
            mine, other = least_us([float_, reference], x[:1])
            zeros = f"{result.summary['ratio']:.1%}"
            cells = [options, zeros, *sizes, f"{mine / other:.2f}", *ethos_u(int8)]
            found.append(f"| {' | '.join(cells)} |")
            sys.stdout.write(found[-1] + "\n")
    return found


def least_us(paths: list[Path], picture: np.ndarray) -> list[float]:
    """Returns the least time of each TFLite file for one picture, one thread, in turns."""
    from export.formats import tflite

    predictors = [tflite.predictor(path) for path in paths]
    least = [float("inf")] * len(paths)
    for _ in range(TURNS):
        for i, predict in enumerate(predictors):
            start = time.perf_counter()
            predict(picture)
            least[i] = min(least[i], time.perf_counter() - start)
    return [round(1e6 * seconds, 1) for seconds in least]


def ethos_u(path: Path) -> list[str]:
    """Returns what Vela says of flash and time, or dashes without Vela."""
    vela = shutil.which("vela")
    if not vela:
        return ["-", "-"]
    out = path.parent / "vela"
    command = [vela, str(path), "--accelerator-config", "ethos-u55-128", "--output-dir", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    with next(out.glob("*.csv")).open(encoding="utf-8") as file:
        told = next(csv.DictReader(file))
    flash, seconds = float(told["off_chip_flash_memory_used"]), float(told["inference_time"])
    return [f"{flash:.0f} KiB", f"{1000 * seconds:.2f} ms"]


def main() -> int:
    """Writes the table."""
    title = (
        "# What zeros buy\n\nLeNet-5-Caffe, bytes of its files and times, made by "
        "`python -m benchmarks.sparsity`, whose text says what the columns are. Zeros are stored "
        "and multiplied like any number: plain files stay as they are, and so does the time on "
        "x86. Files in compressed form (downloads, app packages) and Ethos-U's coded weights get "
        "smaller, and where flash is the bottleneck Ethos-U gets faster."
    )
    files.write_text(TABLE, "\n".join([title, "", HEAD, *rows()]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
