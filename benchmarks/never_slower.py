"""`--format auto` is never slower than float32: four networks on LiteRT and on ONNX Runtime.

    CNNKIT_DATA=mnist python -m benchmarks.never_slower      # about 15 minutes on two cores

`CNNKIT_DATA` is a folder with the four IDX files. LeNet-5, ResNet-20, a depthwise network (that of
`benchmarks.qat`) and SqueezeNet 1.1 learn some digits for a few epochs, and are then exported as a
user does, for each target: `cnnkit export MODEL.keras --target TARGET --format FLOAT --format
auto`. Networks that were trained and files that were written before are used again (`--work` says
where they are kept).

Beside the float32 file and the one that was chosen are those of the peers, as their guides have
them: TFLiteConverter's int8 (with 100 pictures to calibrate) and dynamic range, ONNX Runtime's
`quantize_static` (the same pictures) and `quantize_dynamic` of the float32 file. All files of one
network and runtime take the same digit in turns, in one process on one thread, after the choice
was made and apart from its measurement; the least time counts. Where float32 is what was chosen,
it is one file, and its ratio is 1. The rows go into `benchmarks/never_slower.md`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks import qat
from benchmarks.digits import Digits
from cnnkit import files
from cnnkit import models
from cnnkit.models.saving import load_model
from cnnkit.models.saving import save_model
from cnnkit.training.fit import fit
from cnnkit.training.train import deployable
from export import formats
from export import timing
from export.bundle import Bundle
from export.formats import trace

TABLE = Path(__file__).with_suffix(".md")
COUNT, CALIBRATION, TURNS, RATE = 12_000, 100, 400, 1e-3
# Name -> registered model (None is the network of `benchmarks.qat`), side of its input, epochs.
NETWORKS: dict[str, tuple[str | None, int, int]] = {
    "LeNet-5": ("lenet5", 28, 4),
    "ResNet-20": ("resnet20", 28, 2),
    "depthwise": (None, 28, 3),
    "SqueezeNet 1.1": ("squeezenet1_1", 56, 6),
}
# Target -> its float32 format.
TARGETS = {"litert-cpu": "tflite", "ort-cpu": "onnx"}
RUNTIMES = {"litert-cpu": "LiteRT", "ort-cpu": "ONNX Runtime"}
HEAD = "| network | runtime | file | bytes | right | least ms | times as fast as float32 |\n"


def trained(name: str, digits: Digits, path: Path) -> keras.Model:
    """Returns a network from raw pixels to probabilities, from its file if there is one."""
    if path.is_file():
        return load_model(path)
    model, _, epochs = NETWORKS[name]
    keras.utils.set_random_seed(0)
    if model is None:
        network = qat.network(digits.image_shape, len(digits.classes))
    else:
        bare = models.build(model, digits.image_shape, len(digits.classes))
        network = deployable(bare, *digits.statistics())
    fit(network, digits, epochs=epochs, batch_size=64, lr=RATE, seed=0, keep_best=False)
    save_model(network, path)
    return network


def exported(path: Path, target: str, folder: Path) -> dict[str, Path]:
    """Returns the float32 file and the one that `auto` chose, which may be the same."""
    exact = TARGETS[target]
    if not (folder / Bundle.MANIFEST).is_file():
        command = ["export", str(path), "--data", os.environ["CNNKIT_DATA"], "--target", target]
        command += ["--format", exact, "--format", "auto", "--out", str(folder)]
        # What is refused is not in the bundle, and that is an answer too.
        code = "import sys; from apps.cli import main; sys.exit(main())"
        subprocess.run([sys.executable, "-c", code, *command], check=False)
    bundle = Bundle.open(folder)
    found = {f: bundle.folder / formats.get(f).path(bundle.name) for f in bundle.artifacts}
    (note,) = (note for note in bundle.manifest["notes"] if note.startswith("auto chose"))
    chosen = note.split()[2]
    return {"float32": found[exact], f"auto: {chosen}": found[chosen]}


def converted(model: keras.Model, pictures: np.ndarray, work: Path) -> dict[str, Path]:
    """Returns the files that TFLiteConverter makes."""
    import tensorflow as tf

    def stock(path: Path, calibrated: bool) -> Path:
        with tempfile.TemporaryDirectory() as folder:
            saved = str(trace.save(model, Path(folder), 1))
            converter = tf.lite.TFLiteConverter.from_saved_model(saved)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if calibrated:
                converter.representative_dataset = lambda: (
                    {"image": row[None].astype("float32")} for row in pictures
                )
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            path.write_bytes(converter.convert())
        return path

    return {
        "TFLiteConverter, int8": stock(work / "stock_int8.tflite", True),
        "TFLiteConverter, dynamic range": stock(work / "stock_dynamic.tflite", False),
    }


def quantized(exact: Path, pictures: np.ndarray, work: Path) -> dict[str, Path]:
    """Returns the files that ONNX Runtime makes of a float32 one."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = ({"image": row[None].astype("float32")} for row in pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    static, dynamic = work / "stock_static.onnx", work / "stock_dynamic.onnx"
    quantization.quantize_static(str(exact), str(static), Reader())
    quantization.quantize_dynamic(str(exact), str(dynamic))
    return {"quantize_static": static, "quantize_dynamic": dynamic}


def measured(
    paths: dict[str, Path], kind: str, digits: Digits
) -> dict[str, tuple[float, float] | str]:
    """Returns the part of the test digits that each file gets right, and its milliseconds."""
    predictors: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    right: dict[str, float] = {}
    found: dict[str, tuple[float, float] | str] = {}
    x, y = digits.test_x[:2000], digits.test_y[:2000]
    for name, path in paths.items():
        try:
            predict = timing.in_process(kind, path, threads=1)
            right[name] = float(np.mean(predict(x).argmax(1) == y))
        except Exception as error:  # of a peer's file in its runtime
            found[name] = str(error).splitlines()[0]
        else:
            predictors[name] = predict
    times = timing.interleaved(predictors, x[0], TURNS)
    return found | {name: (right[name], times[name].least) for name in predictors}


def rows(name: str, work: Path) -> list[dict[str, Any]]:
    """Returns what was measured on all files of a network."""
    folder = work / name.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    digits = Digits(COUNT, side=NETWORKS[name][1])
    path, found = folder / "network.keras", []
    model, pictures = trained(name, digits, path), digits.x[:CALIBRATION]
    for target, exact in TARGETS.items():
        ours = exported(path, target, folder / target)
        kind = formats.get(exact).module
        made = (
            converted(model, pictures, folder)
            if kind == "tflite"
            else quantized(ours["float32"], pictures, folder)
        )
        paths = ours | made
        # One file under two names is timed once.
        alike = [n for n, p in paths.items() if n.startswith("auto") and p == paths["float32"]]
        times = measured({n: p for n, p in paths.items() if n not in alike}, kind, digits)
        times |= dict.fromkeys(alike, times["float32"])
        for file, p in paths.items():
            row = {"network": name, "runtime": RUNTIMES[target], "file": file, "of": times[file]}
            found.append(row | {"bytes": p.stat().st_size, "float32": times["float32"]})
    return found


def text(found: list[dict[str, Any]]) -> str:
    """Returns the page."""
    lines, ratios = [], []
    for row in found:
        cells = f"| {row['network']} | {row['runtime']} | {row['file']} | {row['bytes']:,} "
        if isinstance(row["of"], str):
            lines.append(f"{cells}| does not run: {row['of'].replace('|', '/')} | | |")
            continue
        (right, least), (_, exact) = row["of"], row["float32"]
        lines.append(f"{cells}| {right:.2%} | {least:.4f} | {exact / least:.2f} |")
        if row["file"].startswith("auto"):
            ratios.append(exact / least)
    kept = sum(ratio >= 1 for ratio in ratios)
    return (
        "# The fastest file that passes against float32\n\nMade by `python -m "
        "benchmarks.never_slower`, whose text says what the rows are; right are of 2,000 test "
        f"digits. What `auto` chose is at least as fast as float32 in {kept} of {len(ratios)} "
        f"rows; the least ratio is {min(ratios):.3f}, the largest {max(ratios):.2f}.\n\n"
        + HEAD
        + "|---" * 7
        + "|\n"
        + "\n".join(lines)
        + "\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Trains and writes what is missing, measures all, and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/never_slower"), help="kept there")
    args = parser.parse_args(argv)
    found = [row for name in NETWORKS for row in rows(name, args.work)]
    files.write_text(TABLE, text(found))
    sys.stdout.write(TABLE.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
