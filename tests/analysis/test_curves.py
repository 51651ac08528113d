import math

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_digits

from cnnkit.analysis.curves import GOOD
from cnnkit.analysis.curves import diagnosis
from cnnkit.training.fit import fit

HIGH, LOW, BANG = "rate too high", "rate too low", "exploding rate"
OVER, UNDER = "over-fitting", "under-fitting"


class Digits:
    """Some of the digits of scikit-learn."""

    classes = tuple(range(10))

    def __init__(self, train=400):
        x, y = load_digits(return_X_y=True)
        chosen = np.random.default_rng(0).permutation(len(x))
        self.splits = {"train": chosen[:train], "val": chosen[-300:]}
        self.x, self.y = x.reshape(-1, 8, 8, 1), y

    def arrays(self, split):
        chosen = self.splits[split]
        return self.x[chosen], self.y[chosen]


def trained(lr, hidden=(64,), train=400, schedule="constant", epochs=12):
    """Returns the rows of a training by plain gradient descent."""
    keras.utils.set_random_seed(0)
    x = image = keras.Input((8, 8, 1))
    x = layers.Flatten()(layers.Rescaling(1 / 16, -0.3)(x))
    for units in hidden:
        x = layers.Dense(units, activation="relu", kernel_initializer="he_normal")(x)
    options = {"optimizer": "sgd", "schedule": schedule, "batch_size": 32, "patience": epochs}
    model = keras.Model(image, layers.Dense(10)(x))
    return fit(model, Digits(train), epochs=epochs, lr=lr, **options).rows


def names(rows):
    return [finding.name for finding in diagnosis(rows)]


@pytest.mark.parametrize(
    ("expected", "options"),
    [
        ([BANG], {"lr": 5.0}),
        ([HIGH], {"lr": 1.0}),
        ([LOW], {"lr": 1e-3}),
        ([GOOD], {"lr": 0.1}),
        ([GOOD, OVER], {"lr": 0.1, "train": 40}),
        ([UNDER], {"lr": 0.1, "hidden": (2,), "train": 1000, "schedule": "exponential:end=0.01"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_real_trainings(expected, options):
    """10.5, 11.2"""
    rows = trained(**options)
    assert names(rows) == expected, rows


def made(losses, accuracy=0.8, val=0.75, rates=0.1):
    """Returns rows; what is one number is the same in all of them."""
    columns = {"loss": losses, "accuracy": accuracy, "val_accuracy": val, "lr": rates}
    n = len(losses)
    full = {k: v if isinstance(v, list) else [v] * n for k, v in columns.items()}
    rows = ({k: v[i] for k, v in full.items() if v[i] is not None} for i in range(n))
    return [{"epoch": i + 1, **row} for i, row in enumerate(rows)]


# Losses of softmax regressions and small perceptrons on digits, at constant rates unless said.
FALLING = [1.76, 0.925, 0.562, 0.411, 0.333, 0.282, 0.25, 0.222, 0.203, 0.185]
STRAIGHT = [2.41, 2.31, 2.23, 2.15, 2.08, 2.01, 1.94, 1.88, 1.82, 1.76]
ZIGZAG = [1.14, 0.939, 1.01, 1.1, 0.871, 0.853, 1.0, 0.973, 1.06, 1.05]
DEAD = [2.93, 2.64, 2.54, 2.53, 2.51, 2.64, 2.55, 2.59, 2.57, 2.59]
COSINE = [0.1 * (1 + math.cos(math.pi * k / 10)) / 2 for k in range(10)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        (made([2.0]), []),
        (made(STRAIGHT[:4]), []),
        (made(STRAIGHT[:5]), [LOW]),
        (made([2.0, math.nan]), [BANG]),
        (made([2.0, 1.0, math.inf, 1.0, 1.0]), [BANG]),
        (made([2.0, 6.1, 9.0]), [BANG]),
        (made([51.9, 2.33, 2.33, 2.33, 2.32], 0.1, 0.1), [BANG]),
        (made([51.9, 2.33, 0.9, 0.5, 0.4], 0.8, 0.8), [GOOD, UNDER]),
        (made(FALLING), [GOOD, UNDER]),
        (made(STRAIGHT), [LOW]),
        (made(ZIGZAG), [HIGH]),
        (made(DEAD, 0.1, 0.1), [HIGH]),
        (made([2.3] * 6, 0.1, 0.1), [HIGH]),
        (made([2.3] * 6, 0.6, 0.6), [UNDER]),
        (made([2.3, 1.9, 1.4, 1.0, 0.6]), [GOOD, UNDER]),  # not slow
        # Has learned all the same, or from the start.
        (made(ZIGZAG, 0.97, 0.97), []),
        (made(STRAIGHT, 0.97, 0.97), []),
        (made([0.02] * 6, 1.0, 1.0), []),
        (made([0.0] * 6, 1.0, 1.0), [GOOD]),
        # The rate falls in time: what a curve does at low rates says nothing of the highest.
        (made([2.31, 2.15, 2.02, 1.91, 1.81, 1.73, 1.66, 1.6, 1.59, 1.59], rates=COSINE), [LOW]),
        (made([1.2, 1.5, 1.25, 1.15, 1.2, 1.05, 0.95, 0.6, 0.5, 0.5], rates=COSINE), [HIGH]),
        (
            made([1.76, 0.93, 0.57, 0.42, 0.35, 0.35, 0.35, 0.36, 0.35, 0.36], rates=COSINE),
            [GOOD, UNDER],
        ),
        (made(STRAIGHT, rates=[0.1, 0.1, 0.1] + [0.01] * 7), [UNDER]),  # too short to tell
    ],
)
def test_rates(rows, expected):
    """11.2"""
    assert names(rows) == expected


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        (0.99, 0.91, []),
        (0.99, 0.88, [OVER]),
        (0.85, 0.74, [OVER]),
        (0.85, 0.80, [UNDER]),
        (0.85, 0.94, []),
        (0.91, 0.89, []),
        (0.5, 0.45, [UNDER]),
        # Validation falls away while training does not.
        (0.99, [0.9, 0.95, 0.96, 0.96, 0.95, 0.94, 0.92, 0.91, 0.91, 0.91], [OVER]),
        (0.99, [0.9, 0.95, 0.96, 0.96, 0.95, 0.95, 0.94, 0.94, 0.94, 0.94], []),
        ([0.99] * 7 + [0.95] * 3, [0.96] * 7 + [0.9] * 3, []),
        # One bad epoch is noise.
        (0.97, [0.93] * 9 + [0.85], []),
        # It goes on learning.
        ([0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.74, 0.78, 0.82], 0.75, []),
        (0.5, None, []),
    ],
)
def test_fits(train, val, expected):
    """10.5"""
    assert [name for name in names(made(FALLING, train, val)) if name != GOOD] == expected


def test_words_have_the_numbers_and_the_advice_of_the_book():
    def text(rows):
        return " / ".join(finding.text for finding in diagnosis(rows))

    assert text(made([2.0, math.nan])) == (
        "the loss explodes (2 in epoch 1, nan in epoch 2): train again from the start with a far "
        "lower learning rate, such as 0.01"
    )
    assert text(made(ZIGZAG)).startswith(
        "the loss falls at first, and then no more (1.14 in epoch 1, 0.853 in epoch 6, 1.05 in "
        "epoch 10): the learning rate is too high; train again with a lower one, or lower it for"
    )
    assert text(made(STRAIGHT)).endswith("1.76 in epoch 10): raise the learning rate a little")
    good, under = diagnosis(made(FALLING))
    assert good.text.endswith(
        "levels off (1.76 in epoch 1, 0.282 in epoch 6, 0.185 in epoch 10): the learning rate fits"
    )
    assert under.text.startswith("under-fitting: only 80.0% of the training and 75.0% of the")
    assert "more layers, more channels (model.width) or less regularization" in under.text
    assert "99.0% of the training pictures are right, but 80.0%" in text(made(FALLING, 0.99, 0.8))
    falls = [0.96] * 6 + [0.9] * 4
    assert "validation accuracy falls from 96.0% to 90.0%, while training reaches 99.0%: more " in (
        text(made(FALLING, 0.99, falls))
    )
