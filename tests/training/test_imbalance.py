import keras
import numpy as np
import pytest

from cnnkit import losses
from cnnkit.data import sampling
from cnnkit.errors import UsageError
from cnnkit.training import imbalance
from cnnkit.training import resolve
from cnnkit.training.objective import loss_of
from tests.training.pictures import Unequal


def recipe(*sets):
    return resolve(sets=sets).recipe


def test_balanced_data_are_left_alone():
    plain = recipe()
    for counts in ([20, 20, 20], [40, 20, 14]):
        data = Unequal(*counts)
        assert imbalance.method(plain, data)[0] == "none"
        assert imbalance.sampler(plain, data) is None
        assert imbalance.weights(plain, data) is None
        assert imbalance.epoch_length(plain, data) == sum(counts)
        assert isinstance(loss_of(plain, data), keras.losses.CategoricalCrossentropy)


def test_auto_says_why():
    data = Unequal(40, 20, 10)
    chosen, why = imbalance.method(recipe(), data)
    assert chosen == "class_balanced"
    assert why.startswith("the largest class has 40 training pictures, the smallest 10: ")
    assert "much the same" in imbalance.method(recipe(), Unequal(9, 3))[1]
    told = imbalance.method(recipe("loss.cost=counts"), data)
    assert told[0] == "none"
    assert told[1].startswith("loss.cost=counts says")
    assert imbalance.method(recipe("imbalance.method=none"), data)[0] == "none"


@pytest.mark.parametrize("name", sampling.SAMPLERS)
def test_samplers_by_recipe(name):
    """12.1"""
    data, chosen = Unequal(40, 20, 10), recipe(f"imbalance.method={name}", "train.seed=3")
    found = imbalance.sampler(chosen, data)
    np.testing.assert_array_equal(found(5), sampling.SAMPLERS[name](data.labels("train"), 3, 5))
    assert imbalance.epoch_length(chosen, data) == len(found(0))
    assert isinstance(loss_of(chosen, data), keras.losses.CategoricalCrossentropy)


@pytest.mark.parametrize(("name", "beta"), [("weights", 1.0), ("effective_number", 0.95)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_loss_of_mixed_labels_is_the_analytic_one(name, beta, smoothing):
    """12.2"""
    counts = np.array([40, 20, 10])
    chosen = recipe(
        f"imbalance.method={name}", "imbalance.beta=0.95", f"loss.label_smoothing={smoothing}"
    )
    assert imbalance.sampler(chosen, Unequal(*counts)) is None
    loss = loss_of(chosen, Unequal(*counts))
    rng = np.random.default_rng(0)
    h, share = rng.normal(size=(6, 3)), rng.uniform(size=(6, 1))
    y = share * np.eye(3)[[0, 1, 2, 0, 1, 2]] + (1 - share) * np.eye(3)[[1, 1, 0, 2, 0, 2]]
    w = 1 / counts if beta == 1 else (1 - beta) / (1 - beta**counts)
    w /= (w * counts).sum() / counts.sum()
    logs = h - np.log(np.exp(h).sum(1, keepdims=True))
    smooth = (1 - smoothing) * y + smoothing / 3
    want = ((y @ w) * -(smooth * logs).sum(1)).mean()
    np.testing.assert_allclose(loss(y.astype("float32"), h.astype("float32")), want, rtol=1e-5)


def test_any_loss_is_weighted_and_costs_are_added():
    data = Unequal(40, 20, 10)
    y, h = np.eye(3)[[0, 2]].astype("float32"), np.array([[1, 0.5, -1], [0, 2, 1]], "float32")
    weights = losses.class_weights([40, 20, 10])
    ramp = losses.Ramp(-2.0, "crammer_singer")
    found = loss_of(recipe("imbalance.method=weights", "loss.name=ramp"), data)
    want = losses.ClassWeighted(weights, ramp)(y, h)
    np.testing.assert_allclose(found(y, h), want, rtol=1e-6)
    both = loss_of(recipe("imbalance.method=weights", "loss.name=ramp", "loss.cost=counts"), data)
    costs = loss_of(recipe("loss.name=ramp", "loss.cost=counts"), data)(y, h) - ramp(y, h)
    np.testing.assert_allclose(both(y, h), want + costs, rtol=1e-6)


def test_cost_matrix_is_that_of_the_counts():
    """12.2.2"""
    data = Unequal(40, 20, 10)
    y, h = np.eye(3)[[0, 2]].astype("float32"), np.array([[1, 0.5, -1], [0, 2, 1]], "float32")
    found, same = (
        loss_of(recipe(text), data) for text in ("imbalance.method=cost_matrix", "loss.cost=counts")
    )
    np.testing.assert_array_equal(found(y, h), same(y, h))


def test_errors():
    with pytest.raises(UsageError, match="The large margin is not weighed"):
        loss_of(recipe("imbalance.method=weights", "loss.name=large_margin"), Unequal(40, 20))
    with pytest.raises(UsageError, match=r"without training pictures .* Received bar 1"):
        loss_of(recipe("imbalance.method=effective_number"), Unequal(40, 0, 20))
    for text in ("method=smote", "beta=1.5"):
        with pytest.raises(UsageError, match=rf"imbalance\.{text.split('=')[0]} \(from --set\)"):
            recipe(f"imbalance.{text}")
