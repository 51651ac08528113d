"""BinaryConnect: what weights of +1 and -1 cost on MNIST, or gain.

    CNNKIT_DATA=mnist python -m benchmarks.binary_connect

A net with two hidden layers and batch normalization learns with real weights, with their signs,
and with signs that are drawn anew in each step (Courbariaux et al. 2015,
https://arxiv.org/abs/1511.00363, section 3.1 and table 2). After drawn signs, the paper tests with
the real weights behind them, so these are counted too.
"""

import sys
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers

from benchmarks import trials
from benchmarks.digits import Digits
from cnnkit.layers import BinaryDense
from cnnkit.training.fit import fit
from cnnkit.training.train import deployable

UNITS = (512, 512, 10)
COUNT = 10_000
LEARNING: dict[str, Any] = {"epochs": 10, "batch_size": 128}
# Of the training digits, enough for running means with a momentum of 0.9 to forget the first.
PARTS = 40
DENSE, DETERMINISTIC, STOCHASTIC = "dense", "binary-connect", "stochastic"
# Arm -> method of `BinaryDense`, and the learning rate.
METHODS: dict[str, tuple[str | None, float]] = {
    DENSE: (None, 1e-2),
    "BinaryConnect, deterministic": (DETERMINISTIC, 1e-2),
    "BinaryConnect, stochastic": (STOCHASTIC, 5e-2),
}


def network(method: str | None, seed: int = 0) -> keras.Model:
    """Returns a net of dense layers, each with batch normalization; binary if there is a method."""
    x = image = keras.Input((28, 28, 1), name="image")
    x = layers.Flatten(name="flatten")(x)
    for number, units in enumerate(UNITS, 1):
        name = f"fc{number}"
        if method is None:
            x = layers.Dense(units, use_bias=False, name=name)(x)
        else:
            x = BinaryDense(units, method, seed=seed + number, name=name)(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"bn{number}")(x)
        if number < len(UNITS):
            x = layers.ReLU(name=f"relu{number}")(x)
    return keras.Model(image, x)


def wrong(model: keras.Model, method: str | None, digits: Digits) -> int:
    """Returns the errors of `model` with its weights used as `method` does.

    Batch normalization takes its statistics anew: those of training are of other weights, where
    signs were drawn.
    """
    twin = deployable(network(method), *digits.statistics())
    twin.set_weights(model.get_weights())
    for part in np.array_split(digits.x, PARTS):
        twin(part.astype("float32"), training=True)
    return digits.errors(twin)


def trained(digits: Digits, arm: str, seed: int) -> dict[str, float]:
    """Returns what the net of an arm and a seed came to."""
    method, lr = METHODS[arm]
    keras.utils.set_random_seed(seed)
    model = deployable(network(method, seed), *digits.statistics())
    history = fit(model, digits, lr=lr, seed=seed, keep_best=False, **LEARNING)
    kernels = sum(w.size for w in model.get_weights() if w.ndim == 2)
    bits = (32 if method is None else 1) * kernels + 32 * (model.count_params() - kernels)
    row = {
        "wrong": wrong(model, method and DETERMINISTIC, digits),
        "loss": history.rows[-1]["loss"],
        "bits": bits / kernels,
    }
    if method == STOCHASTIC:
        row["real"] = wrong(model, None, digits)
    return row


def main(argv: list[str] | None = None) -> int:
    """Trains what is missing and writes the table."""
    digits = Digits(COUNT)
    plan = trials.Plan(
        place=__file__,
        head=HEAD,
        columns={
            "wrong": ("wrong of 10,000", ".1f"),
            "loss": ("training loss", ".4f"),
            "bits": ("bits per weight", ".2f"),
            "real": ("wrong with the real weights", ".1f"),
        },
        settings={"count": COUNT, "units": UNITS, "methods": METHODS, **LEARNING},
        against={arm: DENSE for arm in METHODS if arm != DENSE},
    )
    return trials.run(plan, {arm: partial(trained, digits, arm) for arm in METHODS}, argv)


HEAD = f"""# BinaryConnect on MNIST

Nets of 784-{"-".join(map(str, UNITS))} with batch normalization after every layer, trained on
{COUNT:,} of the training digits for {LEARNING["epochs"]} epochs with AdamW and a cosine, without
dropout or weight decay. Rates start at {METHODS[DENSE][1]:g} for real weights, of which 0.001
leaves 290.7 wrong on the average; and for binary ones, which have a box to cross, at what was
better of 0.01 and 0.05 on other training digits: {METHODS["BinaryConnect, deterministic"][1]:g}
and, where signs are drawn, {METHODS["BinaryConnect, stochastic"][1]:g}.
Weights are those of the last epoch. Before testing,
batch normalization takes its statistics anew, with the weights of the test: signs, but in the last
column but one the real weights behind them. Bits per weight are those of the kernels and of batch
normalization's float32, over the number of weights in the kernels, as
`export.binarization.packing` stores them. The paper has, after 1000 epochs on all digits
with three layers of 1024 units, 1.30 % dense, 1.29 % deterministic, and 1.18 % stochastic, tested
with the real weights (Courbariaux et al. 2015, https://arxiv.org/abs/1511.00363, table 2). Written
by `python -m benchmarks.binary_connect`."""


if __name__ == "__main__":
    sys.exit(main())
