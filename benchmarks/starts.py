"""Figure 7.1 of Wei 2017: where a deep network starts decides whether it learns.

    CNNKIT_DATA=mnist python -m benchmarks.starts

A stack of convolutions with ReLU and without batch normalization is trained from each start, by
gradient descent with momentum as in the figure, which is from He et al. 2015,
https://arxiv.org/abs/1502.01852, figure 3. The rows go into `benchmarks/starts.md`; the picture,
`benchmarks/starts.png`, has the training loss by epoch, and the scale of what each layer gives
before the first step.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from benchmarks import trials
from benchmarks.digits import Digits
from benchmarks.shortcuts import FILTERS
from benchmarks.shortcuts import SIDE
from benchmarks.shortcuts import stack
from cnnkit.errors import DivergedError
from cnnkit.training.fit import fit
from cnnkit.training.initialize import initialize
from cnnkit.training.train import deployable
from cnnkit.types import Tensor

PICTURE = Path(__file__).with_suffix(".png")
DEPTH, COUNT = 30, 2_500
LEARNING: dict[str, Any] = {
    "epochs": 8,
    "batch_size": 64,
    "optimizer": "momentum",
    "schedule": "constant",
}
# Start -> the standard deviation of normal numbers, or a name that `initialize` knows; and rate.
RATE, RATE_FROM_DATA = 0.01, 0.001
STARTS: dict[str, tuple[float | str, float]] = {
    "zero": ("zeros", RATE),
    "normal, deviation 0.001": (0.001, RATE),
    "normal, deviation 1": (1.0, RATE),
    "Xavier": ("xavier-normal", RATE),
    "He": ("he-normal", RATE),
    "data": ("data", RATE_FROM_DATA),
    "data-pca": ("data-pca", RATE_FROM_DATA),
    "data-kmeans": ("data-kmeans", RATE_FROM_DATA),
}
HE = "He"


def convolution(x: Tensor, name: str) -> Tensor:
    """Returns what a convolution with ReLU makes of pictures."""
    return layers.Conv2D(FILTERS, 3, padding="same", activation="relu", name=name)(x)


def network(start: float | str, digits: Digits, seed: int) -> keras.Model:
    """Returns a fresh network with the weights of a start."""
    keras.utils.set_random_seed(seed)
    model = deployable(stack(DEPTH, convolution), *digits.statistics())
    if isinstance(start, str):
        initialize(model, start, digits.x, seed)
        return model
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            layer.kernel.assign(rng.normal(scale=start, size=layer.kernel.shape))
    return model


def scales(model: keras.Model, digits: Digits) -> list[float]:
    """Returns the standard deviation of what each layer with weights gives for some digits."""
    outputs = [layer.output for layer in model.layers if hasattr(layer, "kernel")]
    found = keras.Model(model.inputs[0], outputs)(digits.x[:200].astype("float32"))
    return [float(np.std(values)) for values in found]


def trained(digits: Digits, name: str, seed: int) -> dict[str, Any]:
    """Returns what the network of a start and a seed came to."""
    start, lr = STARTS[name]
    model = network(start, digits, seed)
    row: dict[str, Any] = {"scales": scales(model, digits)}
    try:
        history = fit(model, digits, lr=lr, seed=seed, keep_best=False, **LEARNING)
    except DivergedError:
        return {"diverged": 1, **row}
    losses = [epoch["loss"] for epoch in history.rows]
    row |= {"first": losses[0], "loss": losses[-1], "losses": losses}
    return {"wrong": digits.errors(model), "diverged": 0, **row}


def main(argv: list[str] | None = None) -> int:
    """Trains what is missing, and writes the table and the picture."""
    digits = Digits(COUNT, SIDE)
    plan = trials.Plan(
        place=__file__,
        head=HEAD,
        columns={
            "wrong": ("wrong of 10,000", ".1f"),
            "first": ("training loss, first epoch", ".3f"),
            "loss": ("last epoch", ".3f"),
            "diverged": ("part that diverged", ".1f"),
        },
        settings={
            "depth": DEPTH,
            "filters": FILTERS,
            "side": SIDE,
            "count": COUNT,
            "starts": STARTS,
            **LEARNING,
        },
        against={name: HE for name in STARTS if name != HE},
    )
    arms = {name: partial(trained, digits, name) for name in STARTS}
    done = trials.run(plan, arms, argv)
    draw(plan.known())
    return done


def draw(rows: list[dict[str, Any]]) -> None:
    """Draws losses by epoch and scales by layer, the medians of the seeds."""
    from matplotlib.figure import Figure

    figure = Figure((10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in STARTS:
        of_start = [row for row in rows if row["arm"] == name]
        for axes, key in ((left, "losses"), (right, "scales")):
            if curves := [row[key] for row in of_start if key in row]:
                curve = np.median(curves, axis=0)
                axes.plot(range(1, len(curve) + 1), curve, label=name)
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="layer", ylabel="deviation of outputs before training", yscale="log")
    right.legend()
    figure.savefig(PICTURE, dpi=80)


HEAD = f"""# Starts of a deep plain network on MNIST

{DEPTH} layers, convolutions of {FILTERS} filters with ReLU and no batch normalization, trained on
{COUNT:,} of the training digits at {SIDE}x{SIDE} for {LEARNING["epochs"]} epochs with momentum 0.9
and batches of {LEARNING["batch_size"]}, at a constant rate of {RATE:g}, as He et al. have for
theirs, and of {RATE_FROM_DATA:g} from starts that look at data. Always answering the most frequent
digit is 8,865 wrong, with a loss of 2.30. Of a training that diverged there is nothing to count.
Written by `python -m benchmarks.starts`, which draws `starts.png` too: losses by epoch, as in
figure 7.1 of Wei 2017, and by layer what starts make of the scale of activations; medians of the
seeds."""


if __name__ == "__main__":
    sys.exit(main())
