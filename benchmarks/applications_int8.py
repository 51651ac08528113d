"""Brings the models of `keras.applications` to int8, by training for it and by calibration.

    python -m benchmarks.applications_int8                 # all but the giants, about 60 minutes
    python -m benchmarks.applications_int8 MobileNetV2     # some of them
    python -m benchmarks.applications_int8 --all           # 24 GiB of memory

Each model has its smallest input, and runs in a process of its own. Its weights are random. Deep
networks of such weights answer every picture alike and multiply each rounding error, so that no
comparison would mean anything. So batch normalizations get an offset of 2, which keeps most of
the activations where a ReLU is linear, and the statistics of 64 random pictures
(`export.pruning.recalibration`); networks without any normalization are initialized from these
pictures (`cnnkit.training.data_dependent`); the last layer is scaled so that over them every logit
has the mean 0 and the deviation 1. Pictures are patches of random colours with noise on them:
16 calibrate, 32 others are what is compared on.

Trained for int8, by the pass `qat` with one step of training: the layers that it leaves in
float32; whether the step leaves finite weights and ranges; for each file the logits that are
within one step of the grid (LSB) of what the simulation computes, the pictures on which both
choose the same class, and signal to noise. The simulation's own signal to noise against the float
model says how much roundings count for in this network: where that is low, a difference of one
step early on moves many logits by more than one. Such differences are known of TFLite's product
with the hard-sigmoid gate of MobileNetV3. Calibrated: signal to noise and classes against the float
model. Rounding errors are larger than those of a trained network, whose margins a random one has
not.

The rows go into `benchmarks/applications_int8.md`; those of models that did not run this time stay.
"""

import collections
import sys
import tempfile
import time
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import zoo
from cnnkit.onednn import unit_strides

SETTLING, CALIBRATION, JUDGING = 64, 16, 32
# Patches a side of a picture, and the deviation of the noise on them.
PATCHES, NOISE = 4, 16
OFFSET = 2.0
RATE = 1e-4
FILES = {
    f"{kind} {way}": (kind, way) for kind in ("tflite", "onnx") for way in ("trained", "calibrated")
}


@dataclass
class Row(zoo.Row):
    """What was measured on one model.

    Attributes:
        floats: By class of layer, how many QAT leaves in float32.
        finite: Whether a step of training leaves finite weights and ranges.
        simulated_db: Signal to noise of the simulation against the float model.
        files: By name in `FILES`, what was measured on it.
        seconds: CPU time.
    """

    floats: dict[str, int] = field(default_factory=dict)
    finite: bool = False
    simulated_db: float = float("nan")
    files: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return self.finite and set(self.files) == set(FILES)

    def cells(self) -> list[str]:
        cells = [
            ", ".join(f"{count} {name}" for name, count in self.floats.items()) or "none",
            "yes" if self.finite else "no",
            f"{self.simulated_db:.1f}",
        ]
        for name, (_, way) in FILES.items():
            found = self.files.get(name, {})
            forms = {"size_bytes": ",.0f", "close": ".1%", "agreement": ".0%", "sqnr_db": ".1f"}
            for key, form in forms.items():
                if key != "close" or way == "trained":
                    cells.append(format(found[key], form) if key in found else "")
        return [*cells, f"{self.seconds:.0f}", f"{self.peak_gib:.1f}"]


def measure(row: Row) -> None:
    """Fills `row`, as far as it gets."""
    from export import formats
    from export import passes
    from export.pipeline import PassData
    from export.quantization import twin
    from export.quantization.sensitivity import decibels

    model = zoo.build(row)
    rng = np.random.default_rng(0)
    x = pictures(SETTLING, row.side, rng)
    settle(model, x, rng)
    calibration, judged = x[:CALIBRATION], x[CALIBRATION : CALIBRATION + JUDGING]
    want = np.asarray(model(judged))

    data = PassData(calibration, None, step, step)
    result = passes.parse("qat").apply(model, data)
    ranges = result.ranges or {}
    row.floats = dict(collections.Counter(text.split()[-1] for text in result.protected))
    ends = [end for limits in ranges.values() for end in limits]
    row.finite = all(np.isfinite(w).all() for w in [ends, *result.model.get_weights()])
    simulated = np.asarray(twin.frozen(result.model, ranges)(judged))
    plain = np.asarray(result.model(judged))
    row.simulated_db = decibels(np.square(plain).sum(), np.square(simulated - plain).sum())
    low, high = list(ranges.values())[-1]

    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (kind, way) in FILES.items():
            module, path = formats.module(kind), Path(folder, name)
            trained = way == "trained"
            options = {"ranges": ranges} if trained else {"calibration": calibration}
            right = simulated if trained else want
            try:
                module.write(result.model if trained else model, path, variant="int8", **options)
                wrong = module.run(path, judged) - right
            except Exception as error:
                failed.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
                continue
            row.files[name] = {
                "size_bytes": path.stat().st_size,
                "close": float((np.abs(wrong) <= 1.001 * (high - low) / 255).mean()),
                "agreement": float(((right + wrong).argmax(1) == right.argmax(1)).mean()),
                "sqnr_db": decibels(np.square(right).sum(), np.square(wrong).sum()),
            }
            path.unlink()
    row.reason = "; ".join(failed).replace("|", "/")
    row.seconds = time.process_time()


def step(model: Any, **options: Any) -> Any:
    """Trains a model for one step on random pictures and labels."""
    import keras

    rng = np.random.default_rng(1)
    x = pictures(CALIBRATION, model.input_shape[1], rng)
    y = rng.integers(0, zoo.CLASSES, len(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # A graph for a single step would take longer to build than to run.
    model.compile(keras.optimizers.SGD(RATE), loss, run_eagerly=True)
    with unit_strides():
        model.fit(x, y, batch_size=len(x), verbose=0)
    return model


def pictures(n: int, side: int, rng: Any) -> Any:
    """Returns patches of random colours with noise on them, `(n, side, side, 3)`."""
    colours = rng.uniform(0, 255, (n, PATCHES, PATCHES, 3))
    place = np.arange(side) * PATCHES // side
    x = colours[:, place[:, None], place] + rng.normal(0, NOISE, (n, side, side, 3))
    return x.clip(0, 255).round().astype("float32")


def settle(model: Any, x: Any, rng: Any) -> None:
    """Gives a random model activations that keep what distinguishes pictures, and its logits."""
    import keras

    from cnnkit.training.data_dependent import initialize

    if not any("Normalization" in type(layer).__name__ for layer in model.layers):
        initialize(model, x)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.beta.assign(layer.beta + OFFSET)
    zoo.settle(model, x, rng)
    logits = np.asarray(model(x))
    last = [layer for layer in model.layers if hasattr(layer, "kernel")][-1]
    last.kernel.assign(last.kernel / logits.std(0))
    last.bias.assign((last.bias - logits.mean(0)) / logits.std(0))


TABLE = zoo.Table(
    path=Path(__file__).with_suffix(".md"),
    program="benchmarks.applications_int8",
    row=Row,
    measure=measure,
    columns=(
        "float32 layers in QAT",
        "a step is finite",
        "simulation: dB",
        "TFLite trained: bytes",
        "within 1 LSB",
        "same class",
        "dB",
        "TFLite calibrated: bytes",
        "same class",
        "dB",
        "ONNX trained: bytes",
        "within 1 LSB",
        "same class",
        "dB",
        "ONNX calibrated: bytes",
        "same class",
        "dB",
        "CPU s",
        "peak GiB",
    ),
    title="`keras.applications` in int8, trained for it and calibrated",
    good="a training step leaves finite numbers, and all four files are written and run; "
    "how close they come is in the columns.",
)


if __name__ == "__main__":
    sys.exit(TABLE.main())
