import json
from dataclasses import replace

import numpy as np
import pytest

import export
from cnnkit import data
from cnnkit.ensembles import Stacking
from cnnkit.ensembles import combination
from cnnkit.errors import UsageError
from cnnkit.training.predict import predict_keras
from cnnkit.training.recipe import resolve
from export.distillation.distill import open_teacher
from export.ensembling import RECORD
from export.ensembling import distilled
from export.ensembling import ensemble
from export.pipeline import read_ledger
from export.runtime import open_model
from export.subject import open_subject
from tests.export import corners

OPTIONS = {"train": {"epochs": 2, "batch_size": 50}}


def spoiled(subject, seed, noise):
    """Returns a subject whose network is a worse one."""
    model = corners.network(end="deployable")
    rng = np.random.default_rng(seed)
    model.set_weights([w + rng.normal(0, noise * np.abs(w).mean(), w.shape) for w in
                       model.get_weights()])  # fmt: skip
    return replace(subject, name=f"seed{seed}", model=model, recipe=resolve(**OPTIONS).recipe)


@pytest.fixture(scope="module")
def subjects(subject):
    return [spoiled(subject, seed, noise) for seed, noise in ((1, 0.8), (2, 1.0), (3, 1.2))]


def answers(subjects, split):
    x, y = subjects[0].dataset.arrays(split)
    return np.stack([predict_keras(s.model, x) for s in subjects]), y


RULES = {
    "mean": lambda known, y, p: combination.mean(p),
    "weighted": lambda known, y, p: combination.weighted(
        p, combination.accuracy_weights([(k.argmax(1) == y).mean() for k in known])
    ),
    "vote": lambda known, y, p: combination.plurality(p),
    "stack": lambda known, y, p: Stacking().fit(known, y).predict(p),
}


@pytest.mark.parametrize("method", RULES)
def test_the_model_is_the_rule(subjects, method):
    made = ensemble(subjects, method)
    p, y = answers(subjects, "test")
    expected = RULES[method](*answers(subjects, "val"), p)
    x = subjects[0].dataset.arrays("test")[0]
    np.testing.assert_allclose(predict_keras(made.subject.model, x), expected, atol=1e-5)
    rights = [(q.argmax(1) == y).mean() for q in (*p, expected)]
    assert [row.test_accuracy for row in made.rows] == rights
    assert all(row.interval[0] <= row.test_accuracy <= row.interval[1] for row in made.rows)
    assert (made.rule, list(made.tried)) == (method, [method])
    assert (sum(r.weight or 0 for r in made.rows) == pytest.approx(1)) == (method == "weighted")


def test_a_vote_tells_what_a_majority_rejects(subjects):
    made = ensemble(subjects, "vote")
    p, y = answers(subjects, "test")
    elected = combination.majority(p)
    assert made.rejected == np.mean(elected == combination.REJECTED)
    assert made.sure == np.mean(elected[elected >= 0] == y[elected >= 0])
    assert ensemble(subjects, "mean").rejected is None


def test_auto_takes_what_is_best_in_validation(subjects):
    made = ensemble(subjects)
    assert list(made.tried) == list(RULES)
    assert made.tried[made.rule] == max(made.tried.values())
    same = ensemble([subjects[0], subjects[0]])
    assert same.rule == "mean"  # the first of equally good ones


def test_the_folder_is_a_run_and_a_teacher(subjects, tmp_path):
    made = ensemble(subjects[:2], "mean")
    out = made.write(tmp_path / "all")
    x = subjects[0].dataset.arrays("test")[0].astype("float32")
    expected = predict_keras(made.subject.model, x)
    for model in (open_subject(out).model, open_teacher(out)):
        np.testing.assert_allclose(predict_keras(model, x), expected, atol=1e-6)
    np.testing.assert_allclose(open_model(out).predict(x), expected, atol=1e-6)
    assert open_subject(out).dataset.ids("test") == subjects[0].dataset.ids("test")
    rows = json.loads((out / RECORD).read_text())["rows"]
    assert [row["name"] for row in rows] == ["seed1", "seed2", "ensemble"]
    told = read_ledger(out)
    assert told[-1].params == sum(row.params for row in told[:-1])


def test_a_student_learns_from_it(subjects):
    made = ensemble(subjects[:2], "mean")
    small = distilled(made, "lenet300")
    assert small.subject.recipe.model.name == "lenet300"
    assert [row.name for row in small.ledger] == ["ensemble", "lenet300"]
    assert small.ledger[-1].accuracy > 0.4


def test_snapshots_of_a_run(subjects):
    before = subjects[0].model.get_weights()
    made = ensemble(subjects[:1], "snapshot", cycles=2, keep=2)
    assert [row.name for row in made.rows] == ["snapshot 1 of 2", "snapshot 2 of 2", "ensemble"]
    assert made.rule == "mean"
    assert all(map(np.array_equal, subjects[0].model.get_weights(), before))
    pixels = made.members[0].get_layer("pixels")
    assert pixels.scale == subjects[0].model.get_layer("pixels").scale
    with pytest.raises(UsageError, match=r"cycles <= 2, which is train\.epochs"):
        ensemble(subjects[:1], "snapshot", cycles=3)


def other(subjects, tmp_path, **changes):
    """Returns a subject whose data are others."""
    path = corners.save(tmp_path / "corners.npz", **changes.pop("pictures", {}))
    found = data.load(data.check(path, **changes))
    return replace(subjects[1], name="other", dataset=found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pictures": {"labels": ("a", "b", "c")}}, "The runs have different classes: seed1 and"),
        ({"pictures": {"n": 144}}, "different pictures.*such as"),
        ({"seed": 5}, r"different splits.*pictures in other ones, such as \d+ in \w+ and in \w+"),
    ],
)
def test_runs_must_agree(subjects, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        ensemble([subjects[0], other(subjects, tmp_path, **changes)])


def test_the_same_data_elsewhere_are_the_same(subjects, tmp_path):
    assert ensemble([subjects[0], other(subjects, tmp_path)], "mean").rule == "mean"


def test_another_resize_rule(subjects):
    dataset = data.load(subjects[0].dataset.manifest, resize="squash")
    with pytest.raises(UsageError, match=r"different resize rules.*letterbox.*squash"):
        ensemble([subjects[0], replace(subjects[1], dataset=dataset)])


@pytest.mark.parametrize(("method", "count"), [("mean", 1), ("auto", 0), ("snapshot", 2)])
def test_wrong_numbers_of_runs(subjects, method, count):
    with pytest.raises(UsageError, match=f"Wrong number of runs.*Received {count}"):
        ensemble(subjects[:count], method)


def test_without_validation_pictures(subjects, tmp_path):
    manifest = subjects[0].dataset.manifest
    items = [replace(i, split="train" if i.split == "val" else i.split) for i in manifest.items]
    dataset = data.load(manifest.model_copy(update={"items": items}))
    blind = [replace(subject, dataset=dataset) for subject in subjects]
    made = ensemble(blind)
    assert (made.rule, made.tried, made.rows[0].val_accuracy) == ("mean", {}, None)
    assert ensemble(blind, "vote").rule == "vote"
    for method in ("weighted", "stack"):
        with pytest.raises(UsageError, match=f"No validation pictures for the method {method}"):
            ensemble(blind, method)


def test_without_data(subjects):
    with pytest.raises(UsageError, match="Nobody knows the pictures"):
        ensemble([subjects[0], replace(subjects[1], dataset=None)])
    with pytest.raises(UsageError, match="Unknown method 'avrage'"):
        ensemble(subjects, "avrage")


def test_the_public_name_is_the_function():
    assert export.ensemble is ensemble
