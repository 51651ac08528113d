"""Ensembles on MNIST (Wei 2017, chapter 13): seeds, snapshots, views, and balanced subsets.

    CNNKIT_DATA=mnist python -m benchmarks.ensembles

LeNet-5 in all arms. What is fitted or weighted is so on validation digits; test digits choose
nothing. The rows go into `benchmarks/ensembles.md` as they are known.
"""

import sys
from collections.abc import Callable
from functools import cache
from functools import partial
from typing import Any

import keras
import numpy as np
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from benchmarks import trials
from benchmarks.digits import Digits
from cnnkit import models
from cnnkit.ensembles import Stacking
from cnnkit.ensembles import Subset
from cnnkit.ensembles import balanced_subsets
from cnnkit.ensembles import combination
from cnnkit.ensembles import features
from cnnkit.ensembles import views
from cnnkit.ensembles.views import seen_by
from cnnkit.training.fit import fit
from cnnkit.training.members import easy_ensemble
from cnnkit.training.members import epoch_fusion
from cnnkit.training.members import snapshot_ensemble
from cnnkit.training.train import deployable

TRAIN, VAL = 5_000, 1_000
LEARNING: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "batch_size": 64}
EPOCHS, CYCLES, KEEP, FUSED = 20, 5, 3, 3
MEMBERS, MEMBER_EPOCHS = 5, 8
COMMON, RARE, COMMON_COUNT, RARE_COUNT = 9, 4, 2_500, 50
SUBSETS, UNEQUAL_EPOCHS, SUBSET_EPOCHS = 10, 10, 30
GENTLE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.03, "batch_size": 32}
ONE, ONE_OF_FIVE, UNEQUAL = "one network", "one of five", "1:50, as they are"


class Split:
    """Digits with some of the training ones held out for validation."""

    def __init__(self, digits: Digits) -> None:
        self.digits = digits

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pictures and labels of a split."""
        if split == "test":
            return self.digits.arrays(split)
        part = slice(TRAIN) if split == "train" else slice(TRAIN, TRAIN + VAL)
        return self.digits.x[part], self.digits.y[part]


class Unequal:
    """Two digits, of which one is rare in training and as frequent as the other in the test."""

    def __init__(self, digits: Digits) -> None:
        x, y = digits.arrays("train")
        many, few = np.flatnonzero(y == COMMON)[:COMMON_COUNT], np.flatnonzero(y == RARE)
        chosen = np.concatenate([many, few[:RARE_COUNT]])
        self.train = x[chosen], (y[chosen] == RARE).astype(int)
        x, y = digits.arrays("test")
        either = np.isin(y, (COMMON, RARE))
        self.test = x[either], (y[either] == RARE).astype(int)

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pictures and labels of a split; there are none for validation."""
        x, y = self.test if split == "test" else self.train
        return (x[:0], y[:0]) if split == "val" else (x, y)


def network(digits: Digits, classes: int, seed: int) -> keras.Model:
    """Returns a fresh LeNet-5, from raw pixels to probabilities."""
    keras.utils.set_random_seed(seed)
    return deployable(models.build("lenet5", (28, 28, 1), classes), *digits.statistics())


def answers(members: list[keras.Model], x: np.ndarray) -> np.ndarray:
    """Returns probabilities `(members, n, classes)`."""
    pixels = x.astype("float32")
    return np.stack([m.predict(pixels, batch_size=1000, verbose=0) for m in members])


def wrong(p: np.ndarray, y: np.ndarray) -> float:
    """Returns how many of a hundred are taken for another."""
    return 100 * float(np.mean(p.argmax(-1) != y))


@cache
def plain(digits: Digits, seed: int) -> list[keras.Model]:
    """Returns the networks of the last epochs of one training, the last one at the end."""
    settings = {**LEARNING, "epochs": EPOCHS, "seed": seed, "keep": FUSED}
    return epoch_fusion(network(digits, 10, seed), Split(digits), **settings)


@cache
def snapshots(digits: Digits, seed: int) -> list[keras.Model]:
    """Returns all snapshots of a training of as many epochs."""
    settings = {**LEARNING, "epochs": EPOCHS, "seed": seed, "cycles": CYCLES, "keep": CYCLES}
    return snapshot_ensemble(network(digits, 10, seed), Split(digits), **settings)


@cache
def five(digits: Digits, seed: int) -> list[keras.Model]:
    """Returns networks that differ in the seed of their weights and order."""
    members = []
    for number in range(MEMBERS * seed, MEMBERS * (seed + 1)):
        members.append(network(digits, 10, number))
        settings = {**LEARNING, "epochs": MEMBER_EPOCHS, "seed": number, "keep_best": False}
        fit(members[-1], Split(digits), **settings)
    return members


def one(digits: Digits, seed: int) -> dict[str, float]:
    """Returns what one network came to."""
    x, y = digits.arrays("test")
    return {"wrong": wrong(answers(plain(digits, seed)[-1:], x)[0], y)}


def averaged(
    make: Callable[[Digits, int], list[keras.Model]], keep: int, digits: Digits, seed: int
) -> dict[str, float]:
    """Returns what the mean of the last networks of a training came to."""
    x, y = digits.arrays("test")
    return {"wrong": wrong(combination.mean(answers(make(digits, seed)[-keep:], x)), y)}


def seen(count: int, flips: bool, digits: Digits, seed: int) -> dict[str, float]:
    """Returns what one network came to that sees several views."""
    x, y = digits.arrays("test")
    model = plain(digits, seed)[-1]
    predict = seen_by(lambda part: answers([model], part)[0], x.shape[1:], views(count, flips))
    return {"wrong": wrong(predict(x), y)}


def alone(digits: Digits, seed: int) -> dict[str, float]:
    """Returns what the members came to, each by itself, on average."""
    x, y = digits.arrays("test")
    return {"wrong": float(np.mean([wrong(p, y) for p in answers(five(digits, seed), x)]))}


def combined(rule: str, digits: Digits, seed: int) -> dict[str, float]:
    """Returns what the members came to together."""
    members, data = five(digits, seed), Split(digits)
    (val_x, val_y), (x, y) = data.arrays("val"), data.arrays("test")
    known, p = answers(members, val_x), answers(members, x)
    if rule == "majority":
        elected = combination.majority(p)
        heard = elected != combination.REJECTED
        missed = 100 * float(np.mean(elected[heard] != y[heard]))
        return {"wrong": missed, "rejected": 100 * float(1 - heard.mean())}
    rights = [float(np.mean(k.argmax(-1) == val_y)) for k in known]
    rules: dict[str, Callable[[], np.ndarray]] = {
        "mean": lambda: combination.mean(p),
        "weighted": lambda: combination.weighted(p, combination.accuracy_weights(rights)),
        "plurality": lambda: combination.plurality(p),
        "logistic regression": lambda: Stacking().fit(known, val_y).predict(p),
        "small net": lambda: (
            Stacking(MLPClassifier((20,), max_iter=2000, random_state=seed))
            .fit(known, val_y)
            .predict(p)
        ),
    }
    return {"wrong": wrong(rules[rule](), y)}


def by_features(digits: Digits, seed: int) -> dict[str, float]:
    """Returns what a support vector machine on the features of all members came to."""
    both, data = features(five(digits, seed)), Split(digits)
    (x, y), (test_x, test_y) = data.arrays("train"), data.arrays("test")
    svm = make_pipeline(StandardScaler(), LinearSVC(C=0.01, random_state=seed))
    svm.fit(answers([both], x)[0], y)
    return {"wrong": 100 * float(np.mean(svm.predict(answers([both], test_x)[0]) != test_y))}


def unequal(kind: str, digits: Digits, seed: int) -> dict[str, float]:
    """Returns what two digits, of which one is rare, came to."""
    data = Unequal(digits)
    settings = {**GENTLE, "keep_best": False}
    if kind == "easy":
        build = partial(network, digits, 2)
        settings |= {"epochs": SUBSET_EPOCHS, "count": SUBSETS, "seed": SUBSETS * seed}
        members = easy_ensemble(build, data, **settings)
    else:
        members, epochs = [network(digits, 2, SUBSETS * seed)], UNEQUAL_EPOCHS
        trained: Any = data
        if kind == "one subset":
            [chosen] = balanced_subsets(data.arrays("train")[1], 1, SUBSETS * seed)
            trained, epochs = Subset(data, chosen), SUBSET_EPOCHS
        fit(members[0], trained, epochs=epochs, seed=SUBSETS * seed, **settings)
    x, y = data.arrays("test")
    p = combination.mean(answers(members, x))
    return {"wrong": wrong(p, y), "missed": wrong(p[y == 1], y[y == 1])}


def main(argv: list[str] | None = None) -> int:
    """Trains what is missing and writes the table."""
    digits, many = Digits(TRAIN + VAL), Digits()
    rules = ("mean", "weighted", "plurality", "majority", "logistic regression", "small net")
    stacked = {"logistic regression", "small net"}
    names = {rule: f"five, {'stacked by ' * (rule in stacked)}{rule}" for rule in rules}
    arms: dict[str, trials.Arm] = {
        ONE: partial(one, digits),
        f"its last {FUSED} epochs, mean": partial(averaged, plain, FUSED, digits),
        "it, 5 views": partial(seen, 5, False, digits),
        "it, 7 views": partial(seen, 7, False, digits),
        "it, 2 views, of which one is mirrored": partial(seen, 2, True, digits),
        "the last snapshot": partial(averaged, snapshots, 1, digits),
        f"the last {KEEP} of {CYCLES} snapshots, mean": partial(averaged, snapshots, KEEP, digits),
        ONE_OF_FIVE: partial(alone, digits),
        **{names[rule]: partial(combined, rule, digits) for rule in rules},
        "five, SVM on their features": partial(by_features, digits),
        UNEQUAL: partial(unequal, "all", many),
        "1:50, one balanced subset": partial(unequal, "one subset", many),
        f"1:50, EasyEnsemble of {SUBSETS}": partial(unequal, "easy", many),
    }
    against, base = {}, ""
    for name in arms:
        base = name if name in (ONE, ONE_OF_FIVE, UNEQUAL) else base
        against |= {name: base} if name != base else {}
    plan = trials.Plan(
        place=__file__,
        head=HEAD,
        columns={
            "wrong": ("test errors, %", ".2f"),
            "rejected": ("rejected, %", ".2f"),
            "missed": ("of the rare digit, %", ".2f"),
        },
        settings={
            "split": [TRAIN, VAL],
            "learning": LEARNING,
            "one": [EPOCHS, CYCLES, KEEP, FUSED],
            "five": [MEMBERS, MEMBER_EPOCHS],
            "pair": [COMMON, RARE, COMMON_COUNT, RARE_COUNT],
            "unequal": [SUBSETS, UNEQUAL_EPOCHS, SUBSET_EPOCHS],
            "gentle": GENTLE,
        },
        against=against,
    )
    return trials.run(plan, arms, argv)


HEAD = f"""# Ensembles on MNIST

LeNet-5 on {TRAIN:,} training digits, by Nesterov's SGD from a rate of {LEARNING["lr"]:g} with
batches of {LEARNING["batch_size"]}; {VAL:,} others are for validation, on which means are weighted
and second learners fitted. Errors are of all test digits; those of the majority, of the digits that
it does not reject. One network is trained for {EPOCHS} epochs along a cosine, and so are the
snapshots, along {CYCLES} cosines. The five differ in their seed and are trained for {MEMBER_EPOCHS}
epochs each; one of five is the mean of their errors. 1:50 is of {COMMON_COUNT:,} nines and
{RARE_COUNT} fours, with equally many of both in the test, from a rate of {GENTLE["lr"]:g} with
batches of {GENTLE["batch_size"]}: {UNEQUAL_EPOCHS} epochs of all, {SUBSET_EPOCHS} of each balanced
subset. Weights are those of the last epoch. Written by `python -m benchmarks.ensembles`."""


if __name__ == "__main__":
    sys.exit(main())
