"""Quantization-aware training against post-training int8, on a depthwise network and MNIST.

    CNNKIT_DATA=DATA python -m benchmarks.qat                # about 30 minutes on one core

`CNNKIT_DATA` is what `cnnkit check` takes. A small MobileNet with linear bottlenecks and ReLU is
trained. As MNIST is easy and weights have a scale for each channel, calibration with 200 pictures
loses nothing on it. So its channels are also made unequal: what makes a hidden channel is
multiplied by a random factor, and what reads it is divided by that, which changes nothing in
float. Networks get so by themselves when nothing balances their channels (Nagel et al. 2019,
"Data-Free Quantization Through Weight Equalization and Bias Correction", section 3). Int8 files of
both networks come from calibration, from the pass `qat`, and from TFMOT's own `quantize_model` by
`export.tfmot`, with the same batches, rates and weight decay as the pass; TFMOT keeps the weights
of the last epoch and writes TFLite alone. So that QAT does not win by having trained longer, there
is also the network that was fine-tuned in float for as many epochs. What QAT leaves as the float
model is made for the rounding and worse without. The table goes into `benchmarks/qat.md`. What
`qat.json` holds from the same epochs is not made again.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cnnkit import files

TABLE = Path(__file__).with_suffix(".md")
RUNS = Path(__file__).with_suffix(".json")
EPOCHS, EXTRA = 3, 2
LR, EXTRA_LR = 5e-3, 2e-3
BATCH = 128
CALIBRATION = 200
BLOCKS = ((8, 1), (12, 2), (12, 1), (16, 2), (16, 1))  # channels, strides
# Factors are between 1 / SPREAD and SPREAD.
SPREAD = 16.0


CALIBRATED, QAT, TFMOT = "calibration", "quantization-aware training", "TFMOT `quantize_model`"
UNEQUAL = "unequal channels, "
LONGER = f"{UNEQUAL}more epochs in float, {CALIBRATED}"
WAYS = (CALIBRATED, QAT, TFMOT, UNEQUAL + CALIBRATED, LONGER, UNEQUAL + QAT, UNEQUAL + TFMOT)
KINDS = ("float", "TFLite", "ONNX", "simulation")


@dataclass(frozen=True)
class Run:
    """One way to make int8 files, with one seed.

    Attributes:
        seed: Of the weights, the order of the pictures and the factors of the channels.
        way: One of `WAYS`.
        wrong: By what computes them, the wrong answers.
        size_bytes: Of the TFLite file.
        beyond: Part of its outputs that are more than 1 LSB from those of the simulation.
    """

    seed: int
    way: str
    wrong: dict[str, int]
    size_bytes: int
    beyond: float | None = None


def network(shape: tuple[int, ...], classes: int) -> Any:
    """Returns inverted residuals of few channels; whatever is rounded badly cannot hide."""
    import keras
    from keras import layers

    def norm(x: Any, name: str, active: bool = True) -> Any:
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if active else x

    def conv(filters: int, size: int, name: str, strides: int = 1) -> Any:
        return layers.Conv2D(
            filters, size, strides, padding="same", use_bias=False, name=f"{name}_conv"
        )

    x = image = keras.Input(shape, name="image")
    x = layers.Rescaling(1 / 127.5, -1.0, name="pixels")(x)
    x = norm(conv(8, 3, "stem", strides=2)(x), "stem")
    for number, (filters, strides) in enumerate(BLOCKS):
        skip, name = x, f"block{number}"
        x = norm(conv(3 * x.shape[-1], 1, f"{name}_expand")(x), f"{name}_expand")
        depthwise = layers.DepthwiseConv2D(
            3, strides, padding="same", use_bias=False, name=f"{name}_depthwise"
        )
        x = norm(depthwise(x), f"{name}_depth")
        x = norm(conv(filters, 1, f"{name}_project")(x), f"{name}_project", active=False)
        if skip.shape == x.shape:
            x = layers.Add(name=f"{name}_add")([x, skip])
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dense(classes, name="logits")(x)
    return keras.Model(image, layers.Softmax(name="probabilities")(x), name="mobile")


def unequal(model: Any, seed: int) -> Any:
    """Returns the same function, its hidden channels scaled by factors of many magnitudes."""
    import keras
    import numpy as np

    rng = np.random.default_rng(seed)
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    for number in range(len(BLOCKS)):
        for made, read in (("expand", "depthwise"), ("depth", "project_conv")):
            norm = twin.get_layer(f"block{number}_{made}_bn")
            kernel = twin.get_layer(f"block{number}_{read}").kernel
            factors = SPREAD ** rng.uniform(-1, 1, norm.gamma.shape)
            norm.gamma.assign(norm.gamma * factors)
            norm.beta.assign(norm.beta * factors)
            kernel.assign(kernel / factors[:, None])
    return twin


def measure(seed: int, known: set[str], epochs: int, extra: int) -> Iterator[Run]:
    """Trains and judges the ways of one seed that are not known."""
    import keras
    import numpy as np

    from cnnkit.training.fit import fit
    from cnnkit.training.recipe import resolve
    from export.subject import open_subject

    if known >= set(WAYS):
        return
    recipe = resolve(
        train={"epochs": epochs, "batch_size": BATCH, "lr": LR, "seed": seed},
        compress={"finetune_epochs": extra, "finetune_lr": EXTRA_LR},
    ).recipe
    keras.utils.set_random_seed(seed)
    subject = open_subject(network((28, 28, 1), 10), os.environ["CNNKIT_DATA"], recipe)
    dataset = subject.dataset
    if dataset is None:
        raise SystemExit("set CNNKIT_DATA to the folder of MNIST")
    fit(subject.model, dataset, epochs=epochs, batch_size=BATCH, lr=LR, seed=seed)
    pictures, _ = dataset.arrays("train")
    chosen = np.random.default_rng(seed).permutation(len(pictures))[:CALIBRATION]
    calibration = pictures[np.sort(chosen)]
    uneven = replace(subject, model=unequal(subject.model, seed))

    def longer(path: Path) -> "Made":
        model = keras.models.clone_model(uneven.model)
        model.set_weights(uneven.model.get_weights())
        fit(model, dataset, epochs=extra, batch_size=BATCH, lr=EXTRA_LR, seed=seed)
        return calibrated(replace(uneven, model=model), calibration, path)

    ways: dict[str, Callable[[Path], Made]] = {
        CALIBRATED: partial(calibrated, subject, calibration),
        QAT: partial(learned, subject),
        TFMOT: partial(by_tfmot, subject),
        UNEQUAL + CALIBRATED: partial(calibrated, uneven, calibration),
        LONGER: longer,
        UNEQUAL + QAT: partial(learned, uneven),
        UNEQUAL + TFMOT: partial(by_tfmot, uneven),
    }
    for way in WAYS:
        if way not in known:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "model")
                yield judge(seed, way, ways[way](path), path, dataset.arrays("test"))


@dataclass(frozen=True)
class Made:
    """A float model, what runs its int8 files, and what they are to compute.

    Attributes:
        model: The float model.
        files: By kind, the module that runs the file that has this ending.
        simulate: Returns the outputs that the TFLite file is to have, or None.
    """

    model: Any
    files: dict[str, Any]
    simulate: Callable[[Any], Any] | None = None


def calibrated(subject: Any, calibration: Any, path: Path) -> Made:
    """Writes int8 files whose ranges are those of pictures."""
    return Made(subject.model, _files(subject.model, path, calibration=calibration))


def learned(subject: Any, path: Path) -> Made:
    """Trains by the pass `qat` and writes the files."""
    from export.pipeline import compress
    from export.quantization import twin

    small = compress(subject, ["qat"]).subject
    simulation = twin.frozen(small.model, small.ranges)
    return Made(
        small.model,
        _files(small.model, path, ranges=small.ranges),
        partial(simulation.predict, verbose=0),
    )


def by_tfmot(subject: Any, path: Path) -> Made:
    """Trains by TFMOT's `quantize_model` and writes its file."""
    from export import tfmot
    from export.formats import tflite

    options, kept = subject.recipe.compress, []
    trained = tfmot.trainer(
        subject.dataset,
        epochs=options.finetune_epochs,
        lr=options.finetune_lr,
        **subject.recipe.train.model_dump(include={"batch_size", "weight_decay", "seed"}),
    )

    def train(model: Any, callbacks: list[Any]) -> None:
        trained(model, callbacks)
        kept.append(model)

    model = tfmot.quantize(subject.model, train, path.with_suffix(".TFLite"))
    return Made(model, {"TFLite": tflite}, partial(kept[0].predict, verbose=0))


def _files(model: Any, path: Path, **options: Any) -> dict[str, Any]:
    from export.formats import onnx
    from export.formats import tflite

    kinds = {"TFLite": tflite, "ONNX": onnx}
    for kind, module in kinds.items():
        module.write(model, path.with_suffix(f".{kind}"), variant="int8", **options)
    return kinds


def judge(seed: int, way: str, made: Made, path: Path, test: tuple[Any, Any]) -> Run:
    """Counts the wrong answers of a model and of its files."""
    import numpy as np

    x, y = test
    pixels = x.astype(np.float32)
    outputs = {"float": made.model.predict(pixels, verbose=0)}
    for kind, module in made.files.items():
        outputs[kind] = module.run(path.with_suffix(f".{kind}"), x)
    beyond = None
    if made.simulate:
        outputs["simulation"] = made.simulate(pixels)
        far = np.abs(outputs["TFLite"] - outputs["simulation"]) > 1.001 / 256
        beyond = float(far.mean())
    wrong = {kind: int((p.argmax(1) != y).sum()) for kind, p in outputs.items()}
    return Run(seed, way, wrong, path.with_suffix(".TFLite").stat().st_size, beyond)


def main(argv: list[str] | None = None) -> int:
    """Trains for every seed and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--extra", type=int, default=EXTRA)
    args = parser.parse_args(argv)
    settings = {"epochs": args.epochs, "extra": args.extra}
    old = json.loads(RUNS.read_text(encoding="utf-8")) if RUNS.exists() else {}
    runs = [Run(**row) for row in old["runs"]] if old.get("settings") == settings else []
    for seed in range(args.seeds):
        known = {run.way for run in runs if run.seed == seed}
        for run in measure(seed, known, args.epochs, args.extra):
            runs.append(run)
            write(runs, settings)
            sys.stdout.write(f"{run}\n")
            sys.stdout.flush()
    return 0


def write(runs: list[Run], settings: dict[str, int]) -> None:
    """Writes the numbers that are known so far, and their table."""
    runs = sorted(runs, key=lambda run: (run.seed, WAYS.index(run.way)))
    files.write_json(RUNS, {"settings": settings, "runs": [asdict(run) for run in runs]})
    params = network((28, 28, 1), 10).count_params()
    seeds = sorted({run.seed for run in runs})
    lines = [
        "# Int8 of a depthwise network on MNIST: trained for it, or calibrated",
        "",
        f"Wrong answers among the 10,000 test pictures, for the seeds {', '.join(map(str, seeds))} "
        f"and their mean. {params:,} parameters, {settings['epochs']} epochs, and "
        f"{settings['extra']} more where it says so and in quantization-aware training. Made by "
        "`python -m benchmarks.qat`, whose text says how.",
        "",
        "| int8 by | float | TFLite int8 | ONNX int8 | simulation | TFLite bytes "
        "| outputs more than 1 LSB from the simulation |",
        f"|{'---|' * 7}",
    ]
    for way in WAYS:
        row = {run.seed: run for run in runs if run.way == way}
        if not row:
            continue
        cells = [way]
        for kind in KINDS:
            found = [run.wrong[kind] for run in row.values() if kind in run.wrong]
            counts = (str(row[seed].wrong[kind]) if seed in row else "-" for seed in seeds)
            mean = f"{', '.join(counts)} (mean {sum(found) / len(found):.1f})" if found else ""
            cells.append(mean)
        far = [run.beyond for run in row.values() if run.beyond is not None]
        cells.append(f"{max(run.size_bytes for run in row.values()):,}")
        cells.append(f"{sum(far) / len(far):.3%}" if far else "")
        lines.append(f"| {' | '.join(cells)} |")
    files.write_text(TABLE, "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
