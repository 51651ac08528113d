import csv

import numpy as np
import pytest

from cnnkit.errors import UsageError
from cnnkit.training import resolve
from cnnkit.training.lr_find import lr_find
from cnnkit.training.lr_find import smoothed
from cnnkit.training.schedules import learning_rates

SETS = ("model.name=lenet300", "model.width=0.3", "data.path=digits")


def test_rates_rise_by_the_same_factor():
    rates = learning_rates(10.0, "rising:start=1e-6", 1, 100)
    found = np.array([float(rates(k)) for k in range(101)])
    np.testing.assert_allclose(found[[0, 100]], [1e-5, 10.0], rtol=1e-4)
    np.testing.assert_allclose(np.diff(np.log(found)), np.log(1e6) / 100, rtol=1e-3)


def test_a_running_mean_has_no_pull_to_zero():
    np.testing.assert_allclose(smoothed([3.0] * 5), 3.0)


def test_suggests_a_rate_that_trains(tmp_path):
    sweep = lr_find(resolve(sets=[*SETS, "train.optimizer=momentum"]).recipe, steps=80)
    assert 1e-3 < sweep.suggestion < sweep.highest < 10
    assert len(sweep.rates) == len(sweep.losses) <= 80
    assert min(smoothed(sweep.losses)) < 0.7 * sweep.losses[0]
    sweep.save(tmp_path)
    with (tmp_path / "lr-find.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lr"]) for row in rows] == sweep.rates
    assert (tmp_path / "lr-find.png").read_bytes().startswith(b"\x89PNG")


def test_a_network_that_cannot_learn_is_named():
    with pytest.raises(UsageError, match="never falls"):
        lr_find(resolve(sets=[*SETS, "model.init=zeros"]).recipe, high=1e-5, steps=30)


def test_bad_arguments():
    recipe = resolve(sets=SETS).recipe
    with pytest.raises(ValueError, match="`steps` of lr_find"):
        lr_find(recipe, steps=3)
    with pytest.raises(UsageError, match="low < high"):
        lr_find(recipe, low=1.0, high=0.1)
