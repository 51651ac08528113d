import pytest

from cnnkit.errors import UsageError
from cnnkit.training import resolve
from cnnkit.training.compare import compare
from cnnkit.training.train import train

SETS = ["model.name=lenet300", "model.width=0.1", "train.batch_size=64"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = {"weak": ["train.epochs=1"], "good": ["train.epochs=12", "train.lr=0.01"]}
    return [
        train("digits", resolve(sets=[*SETS, *sets]), folder / name) for name, sets in made.items()
    ]


def test_says_what_differs_and_whether_it_is_chance(runs):
    found = compare(runs)
    weak, good = found.rows
    assert found.settings == {"train.epochs": [1, 12], "train.lr": [0.003, 0.01]}
    assert (weak.difference, weak.p) == (None, None)
    change = good.scores.accuracy - weak.scores.accuracy
    assert change > 0.2
    assert good.difference.mean == pytest.approx(change)
    assert good.difference.shown
    assert good.p < 1e-6
    assert good.params == weak.params


def test_a_run_is_no_better_than_itself(runs):
    same = compare([runs[0], runs[0]]).rows[1]
    assert (same.difference.mean, same.p, same.difference.shown) == (0, 1, False)


def test_other_pictures_are_refused(runs, tmp_path):
    other = train("digits", resolve(sets=[*SETS, "train.epochs=1", "data.seed=1"]), tmp_path / "r")
    with pytest.raises(UsageError, match=r"other test pictures.*data\.seed"):
        compare([runs[0], other])
    with pytest.raises(UsageError, match="Nothing to compare"):
        compare(runs[:1])
