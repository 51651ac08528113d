import pytest

from cnnkit.errors import UsageError
from cnnkit.training import Reporter
from cnnkit.training import resolve
from cnnkit.training.train import train
from cnnkit.training.tune import BEST
from cnnkit.training.tune import tune
from tests.training.pictures import bars

SETS = ["data.path=digits", "model.name=lenet300", "train.epochs=1", "train.batch_size=64"]
SPACE = {"train.lr": "1e-4..1e-2", "model.width": "0.05,0.1"}


class Hearing(Reporter):
    def __init__(self):
        self.steps = []
        self.step = self.steps.append


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "tune"
    found = tune(
        resolve(sets=SETS), folder, trials=4, objectives=["val_accuracy", "size"], space=SPACE
    )
    return folder, found


def test_gives_the_pareto_set_and_writes_the_best_recipe(study):
    folder, found = study
    assert found[0].values["val_accuracy"] == max(t.values["val_accuracy"] for t in found)
    for one in found:
        assert set(one.settings) == set(SPACE)
        assert not any(
            other.values["val_accuracy"] > one.values["val_accuracy"]
            and other.values["size"] < one.values["size"]
            for other in found
        )
    recipe = resolve(folder / BEST).recipe
    assert recipe.train.lr == pytest.approx(found[0].settings["train.lr"])
    assert recipe.model.width == found[0].settings["model.width"]
    assert (recipe.model.name, recipe.train.epochs) == ("lenet300", 1)
    assert not (folder / "run").exists()


def test_goes_on_where_it_ended(study):
    folder, found = study
    heard = Hearing()
    options = {"trials": 4, "objectives": ["val_accuracy", "size"], "space": SPACE}
    assert tune(resolve(sets=SETS), folder, reporter=heard, **options) == found
    assert not [text for text in heard.steps if text.startswith("trial")]


def test_uneven_classes_are_judged_by_macro_f1(tmp_path):
    sets = ["model.name=lenet300", "model.width=0.1", "train.epochs=2", "train.batch_size=16"]
    recipe = resolve(sets=[f"data.path={bars(tmp_path)}", *sets])
    options = {"trials": 2, "objectives": ["score", "val_accuracy"], "space": SPACE}
    trial = tune(recipe, tmp_path / "tune", **options)[0]
    assert list(trial.values) == ["val_macro_f1", "val_accuracy"]
    run = train(recipe=resolve(tmp_path / "tune" / BEST), out=tmp_path / "run")
    highest = max(row["val_macro_f1"] for row in run.metrics)
    assert highest == run.best["val_macro_f1"] == pytest.approx(trial.values["val_macro_f1"])
    assert run.best["val_accuracy"] == pytest.approx(trial.values["val_accuracy"])


def test_bad_arguments(tmp_path):
    recipe = resolve(sets=SETS)
    with pytest.raises(UsageError, match=r"objective 'accuracy'.*val_accuracy"):
        tune(recipe, tmp_path / "a", objectives=["accuracy"])
    with pytest.raises(UsageError, match=r"Wrong range to search: train\.lr.*Received 0\.\.1"):
        tune(recipe, tmp_path / "a", space={"train.lr": "0..1"})
    with pytest.raises(UsageError, match=r"recipe key 'train\.lt'.*train\.lr"):
        tune(recipe, tmp_path / "a", space={"train.lt": "0.1..1"})
    with pytest.raises(UsageError, match=r"Nothing to choose from: model\.width"):
        tune(recipe, tmp_path / "a", space={"model.width": "1"})
