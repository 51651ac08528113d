import numpy as np
import pytest

from cnnkit import losses
from cnnkit.data import DIGITS
from cnnkit.errors import UsageError
from cnnkit.training import resolve
from cnnkit.training.objective import loss_of
from cnnkit.training.train import train
from tests.training.pictures import Pictures

QUICK = ["train.epochs=8", "model.name=lenet300", "model.width=0.3", "train.batch_size=64"]
CHOICES = {
    "crammer_singer": [],
    "weston_watkins": [],
    "ramp": [],
    "large_margin": ["loss.margin=3"],
    "label_distribution": ["loss.sigma=0.5"],
    "cross_entropy": ["loss.center_weight=0.01"],
}


def accuracy(run):
    return run.metrics[-1]["val_accuracy"]


@pytest.mark.parametrize("name", CHOICES)
def test_trains_digits_by_recipe(name, tmp_path):
    sets = [*QUICK, f"loss.name={name}", *CHOICES[name], "loss.label_smoothing=0.05"]
    assert accuracy(train(DIGITS, resolve(sets=sets), tmp_path / "run")) > 0.7


def test_costs_of_counts_and_of_another_runs_mistakes(tmp_path):
    first = train(DIGITS, resolve(sets=[*QUICK, "loss.cost=counts"]), tmp_path / "first")
    again = resolve(sets=[*QUICK, f"loss.cost={first.folder}"])
    second = train(DIGITS, again, tmp_path / "second")
    assert min(map(accuracy, (first, second))) > 0.7
    assert first.metrics[-1]["val_loss"] != second.metrics[-1]["val_loss"]


def test_costs_are_added_and_their_mean_is_one():
    data = Pictures(train=50)  # of three classes: 17, 17 and 16 pictures
    loss = loss_of(resolve(sets=["loss.name=ramp", "loss.cost=counts"]).recipe, data)
    y, h = np.eye(3)[[0, 2]], np.array([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0]], "float32")
    costs = np.array(losses.costs_from_counts([17, 17, 16]))
    costs /= costs.sum() / 6
    want = losses.Ramp(-2.0, kind="crammer_singer")(y, h) + losses.CostMatrix(costs.tolist())(y, h)
    np.testing.assert_allclose(loss(y, h), want, rtol=1e-6)


def test_costs_of_what_is_no_run(tmp_path):
    recipe = resolve(sets=[f"loss.cost={tmp_path}"]).recipe
    with pytest.raises(UsageError, match="Not a run folder"):
        loss_of(recipe, Pictures())


def test_costs_of_a_run_with_other_classes(tmp_path):
    run = train(DIGITS, resolve(sets=["train.epochs=1", *QUICK[1:]]), tmp_path / "run")
    recipe = resolve(sets=[f"loss.cost={run.folder}"]).recipe
    with pytest.raises(UsageError, match=r"mistakes of this run .*Expected .*bar 0, bar 1"):
        loss_of(recipe, Pictures())


@pytest.mark.parametrize(
    "text", ["loss.name=hing", "loss.margin=5", "loss.sigma=-1", "loss.center_weight=inf"]
)
def test_wrong_values(text):
    with pytest.raises(UsageError, match=rf"{text.split('=')[0]} \(from --set\)\. Expected"):
        resolve(sets=[text])
