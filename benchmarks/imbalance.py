"""Unequal classes: what each method of `imbalance.method` is worth on scikit-learn's digits.

    python -m benchmarks.imbalance --seeds 5      # two minutes; one core

Of each class a part of the training digits is left, the most of one and a twentieth of that of
another, along a geometric series; which class is which is drawn. The test digits stay as they are,
and the mean recall of the classes is told: the accuracy if all were equally frequent. All methods
see as many pictures. There are no validation digits: the weights are those of the end.
"""

import os
import sys
from functools import partial
from typing import Any

import keras
import numpy as np

from benchmarks import trials
from cnnkit import models
from cnnkit.data.arrays import read_digits
from cnnkit.training import imbalance
from cnnkit.training import resolve
from cnnkit.training.fit import fit
from cnnkit.training.objective import loss_of
from cnnkit.training.train import deployable

TRAINING, MOST, RATIO = 1200, 110, 20
PICTURES = 9600  # that a training sees, again and again
LEARNING: dict[str, Any] = {"batch_size": 32, "lr": 3e-3, "weight_decay": 5e-2}
METHODS = (
    *("none", "class_balanced", "label_shuffling", "over", "under"),
    *("weights", "effective_number", "cost_matrix"),
)


class Unequal:
    """Digits, of whose classes some are rare.

    Args:
        seed: Of which class is how rare, and of what is left of it.
    """

    classes = [str(k) for k in range(10)]

    def __init__(self, seed: int) -> None:
        digits = read_digits("")
        order = np.random.default_rng(0).permutation(len(digits.y))
        training, self.test = order[:TRAINING], order[TRAINING:]
        self.x, self.y = digits.x, digits.y
        rng = np.random.default_rng(seed)
        counts = rng.permutation((MOST * RATIO ** -np.linspace(0, 1, 10)).astype(int))
        self.training = np.concatenate(
            [rng.permutation(training[self.y[training] == k])[:n] for k, n in enumerate(counts)]
        )

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pictures and labels of a split; there are none for validation."""
        chosen = {"train": self.training, "val": self.test[:0], "test": self.test}[split]
        return self.x[chosen], self.y[chosen]

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split."""
        return self.arrays(split)[1]


def trained(method: str, seed: int) -> dict[str, float]:
    """Returns what the network of a method and a seed came to, in per cent."""
    keras.utils.set_random_seed(seed)
    data = Unequal(seed)
    recipe = resolve(sets=[f"imbalance.method={method}", f"train.seed={seed}"]).recipe
    x, _ = data.arrays("train")
    model = deployable(models.build("lenet300", (8, 8, 1), 10), [x.mean()], [x.std()])
    fit(
        model,
        data,
        epochs=round(PICTURES / imbalance.epoch_length(recipe, data)),
        loss=loss_of(recipe, data),
        sampler=imbalance.sampler(recipe, data),
        seed=seed,
        keep_best=False,
        **LEARNING,
    )
    x, y = data.arrays("test")
    right = model.predict(x.astype("float32"), batch_size=1000, verbose=0).argmax(1) == y
    recalls = [100 * float(right[y == k].mean()) for k in range(10)]
    return {"mean": float(np.mean(recalls)), "least": min(recalls)}


PLAN = trials.Plan(
    place=__file__,
    head=f"""# Unequal classes

scikit-learn's digits, {MOST} training pictures of the largest class and {MOST // RATIO} of the
smallest, LeNet-300-100, by `python -m benchmarks.imbalance --seeds 5`. All methods see about
{PICTURES:,} pictures in training. Recalls are on test digits, which are balanced.
""",
    columns={"mean": ("mean recall, %", ".2f"), "least": ("least recall, %", ".1f")},
    settings={
        "training": TRAINING,
        "most": MOST,
        "ratio": RATIO,
        "pictures": PICTURES,
        **LEARNING,
    },
    against={name: "none" for name in METHODS if name != "none"},
)

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(trials.run(PLAN, {name: partial(trained, name) for name in METHODS}))
