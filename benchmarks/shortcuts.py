"""Depth with and without shortcuts: plain networks against ResNets and highway networks on MNIST.

    CNNKIT_DATA=mnist python -m benchmarks.shortcuts

Each network with shortcuts stands beside one of the same depth and width without them: ResNets
for CIFAR and their plain twins, with batch normalization (He et al. 2016,
https://arxiv.org/abs/1512.03385, section 4.2); and highway convolutions and plain ones with He's
start, without it (Srivastava et al. 2015, https://arxiv.org/abs/1507.06228, section 3.1).
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import layers

from benchmarks import trials
from benchmarks.digits import Digits
from cnnkit import models
from cnnkit.blocks import highway_conv
from cnnkit.training.fit import fit
from cnnkit.training.train import deployable
from cnnkit.types import Tensor

SIDE, COUNT = 14, 5_000
DEPTHS = (20, 44)
FILTERS = 8
WIDTH = 0.25
LEARNING: dict[str, Any] = {"epochs": 8, "batch_size": 128, "lr": 2e-3}


def stack(depth: int, layer: Callable[[Tensor, str], Tensor]) -> keras.Model:
    """Returns a network of a first convolution, pooling, `depth - 2` layers, and a dense one.

    Args:
        depth: Layers with weights on the way from pixels to logits.
        layer: Given the pictures and a name, returns pictures of the same shape.
    """
    x = image = keras.Input((SIDE, SIDE, 1), name="image")
    x = layers.Conv2D(FILTERS, 3, padding="same", activation="relu", name="first")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    for number in range(2, depth):
        x = layer(x, f"layer{number}")
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x))


def plain(x: Tensor, name: str) -> Tensor:
    """Returns what a convolution with He's start and ReLU makes of pictures."""
    made = layers.Conv2D(
        FILTERS, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=name
    )
    return made(x)


def gated(x: Tensor, name: str) -> Tensor:
    """Returns what a highway convolution makes of pictures."""
    return highway_conv(x, name=name)


def built(name: str) -> keras.Model:
    """Returns a ResNet or its plain twin."""
    return models.build(name, (SIDE, SIDE, 1), 10, width=WIDTH)


def trained(digits: Digits, make: Callable[[], keras.Model], seed: int) -> dict[str, float]:
    """Returns what the network of a seed came to."""
    keras.utils.set_random_seed(seed)
    model = deployable(make(), *digits.statistics())
    history = fit(model, digits, seed=seed, keep_best=False, **LEARNING)
    return {
        "wrong": digits.errors(model),
        "loss": history.rows[-1]["loss"],
        "params": model.count_params(),
    }


def main(argv: list[str] | None = None) -> int:
    """Trains what is missing and writes the table."""
    nets: dict[str, Callable[[], keras.Model]] = {}
    against = {}
    for depth in DEPTHS:
        nets[f"plain-{depth}"] = partial(built, f"plain{depth}")
        nets[f"ResNet-{depth}"] = partial(built, f"resnet{depth}")
        nets[f"stack-{depth}"] = partial(stack, depth, plain)
        nets[f"highway-{depth}"] = partial(stack, depth, gated)
        against[f"ResNet-{depth}"] = f"plain-{depth}"
        against[f"highway-{depth}"] = f"stack-{depth}"
    digits = Digits(COUNT, SIDE)
    plan = trials.Plan(
        place=__file__,
        head=HEAD,
        columns={
            "wrong": ("wrong of 10,000", ".1f"),
            "loss": ("training loss", ".4f"),
            "params": ("parameters", ",.0f"),
        },
        settings={"side": SIDE, "count": COUNT, "width": WIDTH, "filters": FILTERS, **LEARNING},
        against=against,
    )
    return trials.run(plan, {n: partial(trained, digits, make) for n, make in nets.items()}, argv)


HEAD = f"""# Shortcuts on MNIST

ResNets for CIFAR and their plain twins of {WIDTH:g} times the width, with batch normalization; and
stacks of convolutions with {FILTERS} filters, plain with He's start or as highway layers with a
gate's bias of -2, without it. All see {COUNT:,} of the training digits at {SIDE}x{SIDE} for
{LEARNING["epochs"]} epochs with AdamW at {LEARNING["lr"]:g} and a cosine, without weight decay;
weights are those of the last epoch, whose mean loss is told. Written by
`python -m benchmarks.shortcuts`."""


if __name__ == "__main__":
    sys.exit(main())
