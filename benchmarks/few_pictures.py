"""Few pictures: what the presets of `augment.preset` are worth on a thousand digits of MNIST.

    CNNKIT_DATA=mnist python -m benchmarks.few_pictures      # three minutes; one core

There are no validation digits: the weights are those of the end, and mixup and CutMix stop some
epochs before it, as by `augment.off_last_epochs`.
"""

import os
import sys
from functools import cache
from functools import partial
from typing import Any

import keras

from benchmarks import trials
from benchmarks.digits import Digits
from cnnkit import models
from cnnkit.training import resolve
from cnnkit.training.augment import augmenter
from cnnkit.training.fit import fit
from cnnkit.training.train import deployable

COUNT, CALM = 1_000, 5
LEARNING: dict[str, Any] = {"epochs": 30, "batch_size": 32, "lr": 3e-3, "weight_decay": 5e-2}
PRESETS = ("none", "light", "medium", "strong")


class Few(Digits):
    """Digits that a recipe can be made for."""

    classes, image_shape = [str(k) for k in range(10)], (28, 28, 1)


@cache
def digits() -> Few:
    """Returns the digits, which are read once."""
    return Few(COUNT)


def trained(preset: str, seed: int) -> dict[str, float]:
    """Returns what the network of a preset and a seed came to."""
    keras.utils.set_random_seed(seed)
    made = augmenter(resolve(sets=[f"augment.preset={preset}"]).recipe, digits())
    calm = made and made.without_mixing()
    model = deployable(models.build("lenet5", (28, 28, 1), 10), *digits().statistics())
    history = fit(
        model,
        digits(),
        augment=lambda epoch: made if epoch < LEARNING["epochs"] - CALM else calm,
        seed=seed,
        keep_best=False,
        **LEARNING,
    )
    accuracy = 100 * history.rows[-1]["accuracy"]
    return {"errors": digits().errors(model) / 100, "training": accuracy}


PLAN = trials.Plan(
    place=__file__,
    head=f"""# Few pictures

{COUNT:,} training digits of MNIST, all 10,000 test digits, LeNet-5, {LEARNING["epochs"]} epochs, by
`CNNKIT_DATA=mnist python -m benchmarks.few_pictures`. Grey pictures are neither mirrored nor given
other colours; `cnnkit list augments` says what the parts are.
""",
    columns={
        "errors": ("test errors, %", ".2f"),
        "training": ("right on what is trained on, %", ".1f"),
    },
    settings={"count": COUNT, "calm": CALM, **LEARNING},
    against={preset: "none" for preset in PRESETS if preset != "none"},
)

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(trials.run(PLAN, {name: partial(trained, name) for name in PRESETS}))
