"""Fine-tuning with few pictures: a LeNet that knows the digits 0 to 4 learns 5 to 9.

    CNNKIT_DATA=mnist python -m benchmarks.fine_tuning

The ways of Wei 2017, section 11.2.5: the last layer, all layers at one rate, rates by depth, the
last layer before all, what `train.unfreeze=auto` chooses, and together with the nearest pictures of
the source, against a start from scratch. Each seed draws other pictures.
"""

import sys
from collections.abc import Callable
from functools import cache
from functools import partial
from typing import Any

import keras
import numpy as np

from benchmarks import trials
from benchmarks.digits import Digits
from cnnkit import models
from cnnkit.training.fit import fit
from cnnkit.training.joint import joint
from cnnkit.training.similarity import measure
from cnnkit.training.train import deployable

NETWORK, SPLIT, COUNT, PER_CLASS, NEIGHBOURS = "lenet5_caffe", 5, 20_000, 10, 10
SOURCE: dict[str, Any] = {"epochs": 3, "batch_size": 128, "lr": 1e-3, "optimizer": "adam"}
TARGET: dict[str, Any] = {"epochs": 60, "batch_size": 25, "lr": 1e-3, "optimizer": "adam"}
SLOW = 1e-4
DEPTHS = {"conv1/.*": 0.1, "conv2/.*": 0.3}


class Half(Digits):
    """Digits of some classes, numbered from 0.

    Args:
        digits: All of them.
        first: The lowest class.
        chosen: Which of the training digits; None takes all of the classes.
    """

    classes = [str(k) for k in range(SPLIT)]
    image_shape = (28, 28, 1)

    def __init__(self, digits: Digits, first: int, chosen: np.ndarray | None = None) -> None:
        own = range(first, first + SPLIT)
        held = np.flatnonzero(np.isin(digits.y, own)) if chosen is None else chosen
        self.x, self.y = digits.x[held], digits.y[held] - first
        kept = np.isin(digits.test_y, own)
        self.test_x, self.test_y = digits.test_x[kept], digits.test_y[kept] - first

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split."""
        return self.arrays(split)[1]


@cache
def digits() -> Digits:
    """Returns the digits that both tasks are made of."""
    return Digits(COUNT)


def few(seed: int) -> Half:
    """Returns the digits from 5 on, of which a seed draws a few."""
    rng, y = np.random.default_rng(seed), digits().y
    drawn = [rng.choice(np.flatnonzero(y == k), PER_CLASS, replace=False) for k in range(5, 10)]
    return Half(digits(), SPLIT, np.concatenate(drawn))


def fresh(seed: int) -> keras.Model:
    """Returns the network before it knows anything."""
    keras.utils.set_random_seed(seed)
    net = models.build(NETWORK, (28, 28, 1), SPLIT)
    return deployable(net, *Half(digits(), 0).statistics())


@cache
def known(seed: int) -> list[np.ndarray]:
    """Returns the weights of a network that knows the digits up to 4."""
    model = fresh(seed)
    fit(model, Half(digits(), 0), seed=seed, keep_best=False, **SOURCE)
    return list(model.get_weights())


def begun(seed: int) -> keras.Model:
    """Returns the network that knows the digits up to 4, with a fresh last layer."""
    model = fresh(seed)
    head = [np.array(w) for w in model.get_layer("logits").get_weights()]
    model.set_weights(known(seed))
    model.get_layer("logits").set_weights(head)
    return model


def learned(
    seed: int, start: Callable[[int], keras.Model] = begun, **options: Any
) -> dict[str, Any]:
    """Returns the errors of a network that was fine-tuned."""
    model, target = start(seed), few(seed)
    fit(model, target, seed=seed, keep_best=False, **{**TARGET, **options})
    return {"wrong": target.errors(model)}


def auto(seed: int) -> dict[str, Any]:
    """Returns the errors after what the measured similarity chooses."""
    found = measure(begun(seed), few(seed), seed)
    told = {"alike": found.alike, "deep": found.deep, "shallow": found.shallow}
    return {**learned(seed, unfreeze=found.plan), "plan": found.plan, **told}


def together(seed: int) -> dict[str, Any]:
    """Returns the errors after joint fine-tuning."""
    wrap, number = joint(begun(seed), few(seed), Half(digits(), 0), NEIGHBOURS, seed)
    return {**learned(seed, wrap=wrap), "selected": number}


def main(argv: list[str] | None = None) -> int:
    """Trains what is missing and writes the table."""
    arms: dict[str, trials.Arm] = {
        "scratch": partial(learned, start=fresh),
        "head": partial(learned, unfreeze="head"),
        "all": learned,
        f"all at {SLOW:g}": partial(learned, lr=SLOW),
        "by depth": partial(learned, layer_lr=DEPTHS),
        "head then all": partial(learned, unfreeze="head_then_all"),
        "auto": auto,
        "joint": together,
    }
    plan = trials.Plan(
        place=__file__,
        head=HEAD,
        columns={
            "wrong": ("wrong of 4,861", ".1f"),
            "selected": ("selected of the source", ",.0f"),
        },
        settings={
            "network": NETWORK,
            "count": COUNT,
            "per_class": PER_CLASS,
            "neighbours": NEIGHBOURS,
            "source": SOURCE,
            "target": TARGET,
            "depths": DEPTHS,
        },
        against={arm: "scratch" if arm in ("head", "all") else "all" for arm in list(arms)[1:]},
    )
    return trials.run(plan, arms, argv)


HEAD = f"""# Fine-tuning with few pictures

A LeNet-5 of Caffe learns the digits 0 to 4 from about {COUNT // 2:,} pictures, {SOURCE["epochs"]}
epochs with Adam at {SOURCE["lr"]:g}; then 5 to 9 from {PER_CLASS} pictures of each,
{TARGET["epochs"]} epochs with Adam at {TARGET["lr"]:g} and a cosine unless the arm says otherwise,
and keeps the weights of the last one. By depth, the first convolution learns at
{DEPTHS["conv1/.*"]:g} and the second at {DEPTHS["conv2/.*"]:g} of the rate. Joint: together with
the {NEIGHBOURS} nearest pictures of the digits 0 to 4 of each picture. The `.json` says what was
measured and chosen by auto. Written by `python -m benchmarks.fine_tuning`."""


if __name__ == "__main__":
    sys.exit(main())
