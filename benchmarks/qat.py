"""Quantization-aware training against post-training int8, on a depthwise network and MNIST.

    CNNKIT_DATA=DATA python -m benchmarks.qat                # about 15 minutes on one core

`CNNKIT_DATA` is what `cnnkit check` takes. A small MobileNet with linear bottlenecks and ReLU is
trained. As MNIST is easy and weights have a scale for each channel, calibration with 200 pictures
loses nothing on it. So its channels are also made unequal: what makes a hidden channel is
multiplied by a random factor, and what reads it is divided by that, which changes nothing in
float. Networks get so by themselves when nothing balances their channels (Nagel et al. 2019,
"Data-Free Quantization Through Weight Equalization and Bias Correction", section 3). Their int8
files come from calibration and from the pass `qat`. So that QAT does not win by having trained
longer, there is also the network that was fine-tuned in float for as many epochs. What QAT leaves
as the float model is made for the rounding and worse without. The table goes into
`benchmarks/qat.md`.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnnkit import files

TABLE = Path(__file__).with_suffix(".md")
EPOCHS, EXTRA = 3, 2
LR, EXTRA_LR = 5e-3, 2e-3
BATCH = 128
CALIBRATION = 200
BLOCKS = ((8, 1), (12, 2), (12, 1), (16, 2), (16, 1))  # channels, strides
# Factors are between 1 / SPREAD and SPREAD.
SPREAD = 16.0


@dataclass
class Row:
    """One way to make int8 files, with the results of each seed."""

    way: str
    errors: dict[str, list[int]]
    beyond: list[float]
    size_bytes: int = 0


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


def measure(seed: int, data: str, rows: dict[str, Row], epochs: int, extra: int) -> int:
    """Adds the results of a seed to the rows; returns the number of parameters."""
    import keras
    import numpy as np

    from cnnkit.training.fit import fit
    from cnnkit.training.recipe import resolve
    from export.formats import onnx
    from export.formats import tflite
    from export.pipeline import compress
    from export.quantization import twin
    from export.subject import open_subject

    recipe = resolve(
        train={"epochs": epochs, "batch_size": BATCH, "lr": LR, "seed": seed},
        compress={"finetune_epochs": extra, "finetune_lr": EXTRA_LR},
    ).recipe
    keras.utils.set_random_seed(seed)
    subject = open_subject(network((28, 28, 1), 10), data, recipe)
    dataset = subject.dataset
    if dataset is None:
        raise SystemExit("set CNNKIT_DATA to the folder of MNIST")
    fit(subject.model, dataset, epochs=epochs, batch_size=BATCH, lr=LR, seed=seed)
    x, y = dataset.arrays("test")
    pixels = x.astype(np.float32)
    calibration, _ = dataset.arrays("train")
    chosen = np.random.default_rng(seed).permutation(len(calibration))[:CALIBRATION]

    bad = unequal(subject.model, seed)
    longer = keras.models.clone_model(bad)
    longer.set_weights(bad.get_weights())
    fit(longer, dataset, epochs=extra, batch_size=BATCH, lr=EXTRA_LR, seed=seed)
    learned = compress(replace(subject, model=bad), ["qat"])
    ways: dict[str, tuple[Any, Any]] = {
        "calibration": (subject.model, None),
        "unequal channels, calibration": (bad, None),
        "unequal channels, more epochs in float, calibration": (longer, None),
        "unequal channels, quantization-aware training": (learned.model, learned.subject.ranges),
    }
    for way, (model, ranges) in ways.items():
        row = rows.setdefault(way, Row(way, {}, []))

        def wrong(p: Any, kind: str, row: Row = row) -> None:
            row.errors.setdefault(kind, []).append(int((p.argmax(1) != y).sum()))

        wrong(model.predict(pixels, verbose=0), "float")
        with tempfile.TemporaryDirectory() as folder:
            options: dict[str, Any] = {"variant": "int8", "ranges": ranges}
            if ranges is None:
                options["calibration"] = calibration[np.sort(chosen)]
            for kind, module in (("TFLite", tflite), ("ONNX", onnx)):
                path = module.write(model, Path(folder, kind), **options)
                got = module.run(path, x)
                wrong(got, kind)
                if kind == "TFLite":
                    row.size_bytes = path.stat().st_size
                    if ranges is not None:
                        same = twin.frozen(model, ranges).predict(pixels, verbose=0)
                        wrong(same, "simulation")
                        row.beyond.append(float((np.abs(got - same) > 1.001 / 256).mean()))
    return int(subject.model.count_params())


def main(argv: list[str] | None = None) -> int:
    """Trains for every seed and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--extra", type=int, default=EXTRA)
    args = parser.parse_args(argv)
    rows: dict[str, Row] = {}
    for seed in range(args.seeds):
        params = measure(seed, os.environ["CNNKIT_DATA"], rows, args.epochs, args.extra)
        write(rows, params, args)
        sys.stdout.write(TABLE.read_text(encoding="utf-8"))
        sys.stdout.flush()
    return 0


def write(rows: dict[str, Row], params: int, args: argparse.Namespace) -> None:
    """Writes the table of what is known so far."""
    done = len(next(iter(rows.values())).errors["float"])
    lines = [
        "# Int8 of a depthwise network on MNIST: trained for it, or calibrated",
        "",
        f"Wrong answers among the 10,000 test pictures, for each of {done} seeds and their mean. "
        f"{params:,} parameters, {args.epochs} epochs, and {args.extra} more where it says so and "
        "in quantization-aware training. Made by `python -m benchmarks.qat`, whose text says how.",
        "",
        "| int8 by | float | TFLite int8 | ONNX int8 | simulation | TFLite bytes "
        "| outputs more than 1 LSB from the simulation |",
        f"|{'---|' * 7}",
    ]
    for row in rows.values():
        cells = [row.way]
        for kind in ("float", "TFLite", "ONNX", "simulation"):
            found = row.errors.get(kind)
            mean = f" (mean {sum(found) / len(found):.1f})" if found else ""
            cells.append(", ".join(map(str, found or [])) + mean)
        far = sum(row.beyond) / len(row.beyond) if row.beyond else None
        cells += [f"{row.size_bytes:,}", "" if far is None else f"{far:.3%}"]
        lines.append(f"| {' | '.join(cells)} |")
    files.write_text(TABLE, "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
