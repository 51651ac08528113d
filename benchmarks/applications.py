"""Prunes the models of `keras.applications` and runs what comes out.

    python -m benchmarks.applications                 # all but the giants, about 30 minutes
    python -m benchmarks.applications MobileNetV2     # some of them
    python -m benchmarks.applications --all           # 24 GiB of memory

Each model has random weights and its smallest input, and runs in a process of its own. It is
pruned with `prune-filters:ratio=0.3`; the small model is called, saved, loaded again, trained for
a step, and written as TFLite and ONNX, whose outputs are compared. Beside that, 30 % of the
channels of every group are made zero and removed, which must not change the outputs. The rows go
into `benchmarks/applications.md`; those of models that did not run this time stay.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnkit import files
from cnnkit import registry
from cnnkit.errors import UsageError

RATIO = 0.3
TOLERANCE = 1e-4
TABLE = Path(__file__).with_suffix(".md")
NAMES = """
    ConvNeXtTiny ConvNeXtSmall ConvNeXtBase ConvNeXtLarge ConvNeXtXLarge
    DenseNet121 DenseNet169 DenseNet201
    EfficientNetB0 EfficientNetB1 EfficientNetB2 EfficientNetB3
    EfficientNetB4 EfficientNetB5 EfficientNetB6 EfficientNetB7
    EfficientNetV2B0 EfficientNetV2B1 EfficientNetV2B2 EfficientNetV2B3
    EfficientNetV2S EfficientNetV2M EfficientNetV2L
    InceptionResNetV2 InceptionV3
    MobileNet MobileNetV2 MobileNetV3Large MobileNetV3Small
    NASNetLarge NASNetMobile
    ResNet101 ResNet101V2 ResNet152 ResNet152V2 ResNet50 ResNet50V2
    VGG16 VGG19 Xception
"""
# More than 80 million parameters.
GIANTS = "ConvNeXtBase ConvNeXtLarge ConvNeXtXLarge EfficientNetV2L NASNetLarge"
# Pixels a side that a model asks for at least; 32 where nothing stands here.
SMALLEST = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
CLASSES = 10


@dataclass
class Row:
    """What was measured on one model; differences are of logits, the largest of any."""

    model: str
    side: int = 0
    params: int = 0
    channels_ratio: float = 0.0
    params_ratio: float = 0.0
    macs_ratio: float = 0.0
    surgery_s: float = 0.0
    zeroed: float = float("nan")
    reloaded: float = float("nan")
    trained: bool = False
    tflite: float = float("nan")
    onnx: float = float("nan")
    peak_gib: float = 0.0
    protected: str = ""
    reason: str = ""

    @property
    def good(self) -> bool:
        differences = (self.zeroed, self.reloaded, self.tflite, self.onnx)
        return self.trained and all(value <= TOLERANCE for value in differences)

    def __str__(self) -> str:
        cells = [
            self.model,
            f"{self.side}x{self.side}",
            f"{self.params / 1e6:.1f} M",
            *(f"{x:.0%}" for x in (self.channels_ratio, self.params_ratio, self.macs_ratio)),
            f"{self.surgery_s:.1f}",
            *(f"{x:.0e}" for x in (self.zeroed, self.reloaded)),
            "yes" if self.trained else "no",
            *(f"{x:.0e}" for x in (self.tflite, self.onnx)),
            f"{self.peak_gib:.1f}",
            self.protected or "output",
            "good" if self.good else self.reason or "differs too much",
        ]
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| model | input | parameters | channels removed | parameters removed | MACs removed "
    "| surgery s | zeroed channels: difference | reloaded: difference | trains "
    "| TFLite: difference | ONNX: difference | peak GiB | protected | verdict |\n"
    f"|{'---|' * 15}"
)


def measure(name: str, row: Row) -> None:
    """Fills `row`, as far as it gets."""
    import keras
    import numpy as np

    from benchmarks.silence import harmless
    from benchmarks.silence import silenced
    from export import formats
    from export import passes
    from export.graph import Graph

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    shape = (row.side, row.side, 3)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=shape, classes=CLASSES, classifier_activation=None
    )
    row.params = model.count_params()
    x = rng.uniform(0, 255, (32, *shape)).astype("float32")
    # From few pictures some variances would be nearly zero, and rounding errors would explode.
    settle(model, x, rng)
    x = x[:4]

    graph = Graph(model)
    gone = harmless(graph, RATIO)
    zeroed = silenced(graph, gone)
    row.zeroed = distance(zeroed(x), Graph(zeroed).rebuild(gone)(x))
    del zeroed, graph

    start = time.perf_counter()
    result = passes.parse(f"prune-filters:ratio={RATIO}").apply(model)
    row.surgery_s = time.perf_counter() - start
    for key in ("channels_ratio", "params_ratio", "macs_ratio"):
        setattr(row, key, result.summary[key])
    row.protected = "; ".join(p for p in result.protected if "an output of the model" not in p)
    small, want = result.model, result.model(x)

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        small.save(place / "small.keras")
        row.reloaded = distance(want, keras.models.load_model(place / "small.keras")(x))
        for kind in ("tflite", "onnx"):
            module = formats.module(kind)
            try:
                path = module.write(small, place / f"small.{kind}")
                setattr(row, kind, distance(want, module.run(path, x)))
            except UsageError as error:
                row.reason = str(error)
    small.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    small.fit(x, rng.integers(0, CLASSES, len(x)), verbose=0)
    row.trained = all(np.isfinite(weight).all() for weight in small.get_weights())


def settle(model: Any, x: Any, rng: Any) -> None:
    """Gives biases and scales values of their own, and batch normalizations the data's."""
    from export.pruning.recalibration import recalibrate

    for variable in model.trainable_variables:
        if len(variable.shape) == 1:
            variable.assign(variable + 0.1 * rng.normal(size=variable.shape))
    recalibrate(model, x)


def distance(want: Any, got: Any) -> float:
    """Returns the largest difference, as a part of the largest value if that is above 1."""
    import numpy as np

    want, got = np.asarray(want), np.asarray(got)
    return float(np.abs(want - got).max() / max(1.0, np.abs(want).max()))


def child(name: str) -> None:
    """Measures one model and prints its row as JSON."""
    row = Row(name, SMALLEST.get(name, 32))
    try:
        measure(name, row)
    except Exception as error:
        row.reason = f"{type(error).__name__}: {str(error).splitlines()[0]}".replace("|", "/")
    # Linux counts it in KiB.
    row.peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(json.dumps(dataclasses.asdict(row)) + "\n")


def run(name: str) -> Row:
    """Measures one model in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.applications", "--child", name],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode:
        return Row(name, SMALLEST.get(name, 32), reason=f"its process ended with {done.returncode}")
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def write(rows: list[Row]) -> None:
    """Puts the rows into the table, in alphabetical order."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    known = {line.split(" | ")[0][2:]: line for line in lines if line.startswith("| ")}
    known = {name: line for name, line in known.items() if name in NAMES.split()}
    known |= {row.model: str(row) for row in rows}
    good = sum(line.endswith("| good |") for line in known.values())
    title = (
        f"# `keras.applications` after `prune-filters:ratio={RATIO}`\n\n"
        f"{good} of {len(known)} are good, out of {len(NAMES.split())}: every difference is at "
        f"most {TOLERANCE}, and a training step leaves finite weights. "
        "Made by `python -m benchmarks.applications`, whose text says what the columns are."
    )
    files.write_text(
        TABLE, "\n".join([title, "", HEAD, *(known[name] for name in sorted(known))]) + "\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the models that are named, or all but the giants."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="the giants too")
    parser.add_argument("--child", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child)
        return 0
    names = [registry.known("model", name, NAMES.split()) for name in args.names]
    giants = () if args.all else GIANTS.split()
    rows: list[Row] = []
    for name in names or [name for name in NAMES.split() if name not in giants]:
        rows.append(run(name))
        write(rows)
        sys.stdout.write(f"{rows[-1]}\n")
        sys.stdout.flush()
    return 0 if all(row.good for row in rows) else 3


if __name__ == "__main__":
    sys.exit(main())
