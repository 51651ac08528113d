"""Post-training int8 by three tools, and which layers it costs something, on MNIST.

    CNNKIT_DATA=DATA python -m benchmarks.post_training      # about ten minutes on one core

`CNNKIT_DATA` is what `cnnkit check` takes. LeNet-5-Caffe and the depthwise network of
`benchmarks.qat` are trained for a few epochs. The TFLite converter, litert-quantizer (which takes
moving averages as ranges) and ONNX Runtime then make int8 files of each, calibrated with the same
200 pictures. ONNX Runtime's file of the depthwise network is also calibrated with pictures that
were divided by 255, which the check of calibration data is for. Below stands what the rounding of
each of its layers costs by itself. The tables go into `benchmarks/post_training.md`.
"""

import os
import sys
from pathlib import Path
from typing import Any

from cnnkit import files

TABLE = Path(__file__).with_suffix(".md")
EPOCHS, BATCH, LR = 3, 64, 3e-3
CALIBRATION = 200
PICTURES = 256


def networks() -> dict[str, Any]:
    """Returns the networks by name, untrained: raw pixels in, probabilities out."""
    from benchmarks.qat import network
    from cnnkit import models
    from cnnkit.training.train import deployable

    lenet = models.build("lenet5_caffe", (28, 28, 1), 10)
    return {
        "LeNet-5-Caffe": deployable(lenet, [33.3], [78.6]),
        "depthwise network": network((28, 28, 1), 10),
    }


def main() -> int:
    """Trains, quantizes and writes the tables."""
    import keras
    import numpy as np

    from cnnkit import data
    from cnnkit.training.fit import fit
    from export.quantization import calibration as pictures
    from export.quantization import compare
    from export.quantization import sensitivity

    keras.utils.set_random_seed(0)
    dataset = data.load(data.check(os.environ["CNNKIT_DATA"]))
    train_x, train_y = dataset.arrays("train")
    x, y = dataset.arrays("test")
    chosen = np.sort(np.random.default_rng(0).permutation(len(train_x))[:CALIBRATION])
    calibration = train_x[chosen]
    lines = [
        "# Post-training int8 by three tools on MNIST",
        "",
        f"Seed 0, {EPOCHS} epochs, {CALIBRATION} calibration pictures, {len(x):,} test pictures. "
        "Made by `python -m benchmarks.post_training`, whose text says how.",
    ]
    for name, model in networks().items():
        fit(model, dataset, epochs=EPOCHS, batch_size=BATCH, lr=LR)
        rows = compare.compare(model, x, y, calibration)
        lines += ["", f"## {name}", "", compare.table(rows).rstrip()]
    rows = compare.compare(model, x, y, calibration / 255, ["ONNX Runtime"])
    lines += [
        "",
        "Calibrated with pixels from 0 to 1, the file of ONNX Runtime for the last network has "
        f"{rows[-1].accuracy or 0:.2%} accuracy. The check of calibration pictures says:",
        "",
    ]
    found = pictures.check(calibration / 255, train_y[chosen], train_x, train_y, dataset.classes)
    lines += [f"- {problem}" for problem in found]
    noise = sensitivity.table(sensitivity.measure(model, x[:PICTURES]))
    lines += [
        "",
        f"## Where the {name} loses",
        "",
        f"Signal to noise of the logits on {PICTURES} pictures when only this layer is rounded; "
        "`reached` is that of its own output when everything is.",
        "",
        noise.rstrip(),
    ]
    files.write_text(TABLE, "\n".join(lines) + "\n")
    sys.stdout.write(TABLE.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
