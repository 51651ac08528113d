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

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import zoo
from cnnkit.errors import UsageError
from cnnkit.onednn import unit_strides

RATIO = 0.3
TOLERANCE = 1e-4


@dataclass
class Row(zoo.Row):
    """What was measured on one model; differences are of logits, the largest of any."""

    channels_ratio: float = 0.0
    params_ratio: float = 0.0
    macs_ratio: float = 0.0
    surgery_s: float = 0.0
    zeroed: float = float("nan")
    reloaded: float = float("nan")
    trained: bool = False
    tflite: float = float("nan")
    onnx: float = float("nan")
    protected: str = ""

    @property
    def good(self) -> bool:
        differences = (self.zeroed, self.reloaded, self.tflite, self.onnx)
        return self.trained and all(value <= TOLERANCE for value in differences)

    def cells(self) -> list[str]:
        return [
            *(f"{x:.0%}" for x in (self.channels_ratio, self.params_ratio, self.macs_ratio)),
            f"{self.surgery_s:.1f}",
            *(f"{x:.0e}" for x in (self.zeroed, self.reloaded)),
            "yes" if self.trained else "no",
            *(f"{x:.0e}" for x in (self.tflite, self.onnx)),
            f"{self.peak_gib:.1f}",
            self.protected or "output",
        ]


def measure(row: Row) -> None:
    """Fills `row`, as far as it gets."""
    import keras
    import numpy as np

    from benchmarks.silence import harmless
    from benchmarks.silence import silenced
    from export import formats
    from export import passes
    from export.graph import Graph

    model = zoo.build(row)
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (32, *model.input_shape[1:])).astype("float32")
    # From few pictures some variances would be nearly zero, and rounding errors would explode.
    zoo.settle(model, x, rng)
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
    with unit_strides():
        small.fit(x, rng.integers(0, zoo.CLASSES, len(x)), verbose=0)
    row.trained = all(np.isfinite(weight).all() for weight in small.get_weights())


def distance(want: Any, got: Any) -> float:
    """Returns the largest difference, as a part of the largest value if that is above 1."""
    import numpy as np

    want, got = np.asarray(want), np.asarray(got)
    return float(np.abs(want - got).max() / max(1.0, np.abs(want).max()))


TABLE = zoo.Table(
    path=Path(__file__).with_suffix(".md"),
    program="benchmarks.applications",
    row=Row,
    measure=measure,
    columns=(
        "channels removed",
        "parameters removed",
        "MACs removed",
        "surgery s",
        "zeroed channels: difference",
        "reloaded: difference",
        "trains",
        "TFLite: difference",
        "ONNX: difference",
        "peak GiB",
        "protected",
    ),
    title=f"`keras.applications` after `prune-filters:ratio={RATIO}`",
    good=f"every difference is at most {TOLERANCE}, and a training step leaves finite weights.",
)


if __name__ == "__main__":
    sys.exit(TABLE.main())
