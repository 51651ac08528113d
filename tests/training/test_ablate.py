import json

import pytest

from cnnkit.errors import UsageError
from cnnkit.training import Reporter
from cnnkit.training import resolve
from cnnkit.training.ablate import ROWS
from cnnkit.training.ablate import TRICKS
from cnnkit.training.ablate import ablate
from cnnkit.training.recipe import flat
from cnnkit.training.recipe import to_dict
from tests.training.pictures import bars

SETS = [
    *("data.path=digits", "model.name=lenet300", "model.width=0.1", "train.epochs=1"),
    *("train.batch_size=64", "loss.label_smoothing=0.2"),
]


class Hearing(Reporter):
    def __init__(self):
        self.steps, self.warnings = [], []
        self.step, self.warn = self.steps.append, self.warnings.append


def test_one_change_at_a_time_over_seeds_and_what_is_known_is_kept(tmp_path):
    tricks = ["label_smoothing", "ema", "fancy_pca"]
    heard = Hearing()
    rows = ablate(resolve(sets=SETS), tmp_path / "a", tricks, seeds=2, reporter=heard)
    assert [(row.trick, row.change, row.seeds) for row in rows] == [
        ("label_smoothing", "without", 2),
        ("ema", "with", 2),
    ]
    assert ["fancy_pca is left out" in text for text in heard.warnings] == [True]
    told = json.loads((tmp_path / "a" / ROWS).read_text())["rows"]
    change = [told[f"ema {s}"]["score"] - told[f"as it is {s}"]["score"] for s in (0, 1)]
    assert rows[1].score.mean == pytest.approx(sum(change) / 2)
    assert {row.metric for row in rows} == {"val_accuracy"}
    again = Hearing()
    same = ablate(resolve(sets=SETS), tmp_path / "a", tricks[:2], seeds=2, reporter=again)
    assert same == rows
    assert not [text for text in again.steps if text.startswith("seed")]
    with pytest.raises(UsageError, match="another recipe"):
        ablate(resolve(sets=[*SETS, "train.epochs=2"]), tmp_path / "a", tricks, seeds=2)


def test_uneven_classes_are_judged_by_macro_f1(tmp_path):
    sets = ["model.name=lenet300", "model.width=0.1", "train.epochs=2", "train.batch_size=16"]
    recipe = resolve(sets=[f"data.path={bars(tmp_path)}", *sets])
    [row] = ablate(recipe, tmp_path / "a", ["label_smoothing"], seeds=2)
    assert row.metric == "val_macro_f1"
    told = json.loads((tmp_path / "a" / ROWS).read_text())["rows"]
    assert {row["metric"] for row in told.values()} == {"val_macro_f1"}


@pytest.mark.parametrize("trick", TRICKS)
def test_every_trick_is_two_recipes(trick):
    having, lacking = TRICKS[trick]
    assert having.keys() == lacking.keys()
    for keys in (having, lacking):
        values = flat(
            to_dict(resolve(sets=[f"{k}={json.dumps(v)}" for k, v in keys.items()]).recipe)
        )
        assert {key: values[key] for key in keys} == keys


def test_bad_arguments(tmp_path):
    with pytest.raises(UsageError, match=r"trick 'mixip'.*mixup"):
        ablate(resolve(sets=SETS), tmp_path / "a", ["mixip"])
    with pytest.raises(UsageError, match="Too few seeds"):
        ablate(resolve(sets=SETS), tmp_path / "a", ["mixup"], seeds=1)
