import json

import numpy as np
import pytest

from cnnkit import files
from cnnkit.data import DIGITS
from cnnkit.errors import DivergedError
from cnnkit.errors import UsageError
from cnnkit.training import Reporter
from cnnkit.training import Run
from cnnkit.training import resolve
from cnnkit.training.train import choose
from cnnkit.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = resolve(sets=["train.epochs=2", "model.width=0.25"])
    return train(DIGITS, recipe, tmp_path_factory.mktemp("runs") / "digits")


def test_run_folder_is_complete_and_opens_again(run):
    boards = {p.relative_to(run.folder).as_posix() for p in run.folder.glob("tensorboard*/**/*")}
    boards.add("tensorboard")
    assert any("tfevents" in name for name in boards)
    assert {p.relative_to(run.folder).as_posix() for p in run.folder.rglob("*")} == {
        *("checkpoints", "checkpoints/best.keras", "checkpoints/last.keras"),
        *("checkpoints/state.json", "checkpoints/state-00002.npz", "classes.json"),
        *("config.resolved.json", "config.toml", "data.manifest.json", "environment.json"),
        *("events.jsonl", "health.json", "metrics.csv", "model.keras", *boards),
    }
    again = Run.open(run.folder)
    assert (again.recipe, again.manifest) == (run.recipe, run.manifest)
    assert [row["epoch"] for row in again.metrics] == [1, 2]
    assert json.loads((run.folder / "classes.json").read_text()) == [str(k) for k in range(10)]
    looks = json.loads((run.folder / "health.json").read_text())
    assert looks == [{"epoch": 1, "said": []}, {"epoch": 2, "said": []}]
    assert again.health == []
    model, dataset = again.model(), again.dataset()
    x, y = dataset.arrays("val")
    p = model.predict(x.astype("float32"), verbose=0)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    best = max(row["val_accuracy"] for row in again.metrics)
    assert np.mean(p.argmax(1) == y) == pytest.approx(best, abs=1e-5)


def test_choices_and_their_origin_are_written(run):
    found = json.loads((run.folder / "config.resolved.json").read_text())
    assert found["model.name"] == {"value": "resnet8", "from": "chosen from the data"}
    assert found["data.image_size"] == {"value": [8, 8], "from": "chosen from the data"}
    assert found["train.epochs"] == {"value": 2, "from": "--set"}
    assert found["train.batch_size"] == {"value": 32, "from": "chosen from the data"}
    assert found["train.weight_decay"]["from"] == "default"
    assert found["data.path"] == {"value": "digits", "from": "argument"}


def test_pixels_are_normalized_by_the_training_split_alone(run):
    x, _ = run.dataset().arrays("train")
    layer = run.model().get_layer("pixels")
    np.testing.assert_allclose(np.ravel(layer.scale), 1 / x.std(), rtol=1e-6)
    np.testing.assert_allclose(np.ravel(layer.offset), -x.mean() / x.std(), rtol=1e-6)


class Listener(Reporter):
    def __init__(self):
        self.warnings, self.notes = [], []
        self.warn, self.note = self.warnings.append, self.notes.append


def test_what_is_wrong_with_layers_and_curves_is_told_and_kept(tmp_path):
    """7.1, 11.2"""
    sets = ["train.epochs=5", "model.name=lenet300", "model.width=0.1", "train.batch_size=64"]
    told = Listener()
    wrong = resolve(sets=[*sets, "model.init=zeros", "train.schedule=constant"])
    run = train(DIGITS, wrong, tmp_path / "run", reporter=told)
    looks = json.loads((run.folder / "health.json").read_text())
    assert [look["epoch"] for look in looks] == [2, 4]
    assert run.health == looks[-1]["said"]
    zero = "fc1: its weights are all zero: its units cannot become different"
    assert zero in run.health
    assert told.warnings.count(zero) == 1
    assert told.warnings[-1].startswith("the loss does not fall (2.3")
    told = Listener()
    right = resolve(sets=[*sets, "train.epochs=8"])
    train(DIGITS, right, tmp_path / "run", overwrite=True, reporter=told)
    assert told.warnings == []
    assert any(note.startswith("the loss falls fast, then levels off (") for note in told.notes)


@pytest.mark.parametrize("loss", ["loss.center_weight=0.01", "loss.name=large_margin"])
def test_layers_are_looked_at_under_every_loss(loss, tmp_path):
    sets = ["train.epochs=1", "model.name=lenet300", "model.width=0.1", "model.init=zeros", loss]
    run = train(DIGITS, resolve(sets=sets), tmp_path / "run")
    assert any("fc1: its weights are all zero" in text for text in run.health)


def test_nothing_is_overwritten_unasked(run, tmp_path):
    with pytest.raises(UsageError, match="--overwrite"):
        train(DIGITS, out=run.folder)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="something already"):
        train(DIGITS, out=tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").is_file()
    with pytest.raises(UsageError, match="No data given"):
        train(out=tmp_path / "new")


def test_overwriting_leaves_nothing_of_the_old_run(tmp_path):
    recipe = resolve(sets=["train.epochs=1", "model.name=lenet300", "model.width=0.1"])
    old = train(DIGITS, recipe, tmp_path / "run")
    (old.folder / "report.html").write_text("old")
    new = train(DIGITS, recipe, tmp_path / "run", overwrite=True)
    assert not (new.folder / "report.html").exists()
    for a, b in zip(old.model().get_weights(), new.model().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)  # equal recipes give equal runs


def test_a_folder_that_another_process_works_in_is_left_alone(run):
    before = sorted(run.folder.rglob("*"))
    with files.owned(run.folder):
        for overwrite, reason in ((False, "--overwrite"), (True, "Another process works")):
            with pytest.raises(UsageError, match=reason):
                train(DIGITS, out=run.folder, overwrite=overwrite)
    assert sorted(run.folder.rglob("*")) == before


def test_one_of_two_that_begin_at_once_is_refused(tmp_path):
    """The other has trained in the folder while the pictures were checked, and is done."""

    class Other(Reporter):
        def step(self, text):
            if text.startswith("checking"):
                files.write_text(tmp_path / "run" / "environment.json", "{}")

    recipe = resolve(sets=["model.name=lenet300", "model.width=0.1"])
    with pytest.raises(UsageError, match="There is something already"):
        train(DIGITS, recipe, tmp_path / "run", reporter=Other())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["environment.json"]


def test_a_diverged_run_has_weights_but_no_model(tmp_path):
    sets = ["train.lr=1e30", "train.optimizer=sgd", "model.name=lenet300", "model.width=0.1"]
    with pytest.raises(DivergedError):
        train(DIGITS, resolve(sets=sets), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert (run.folder / "checkpoints/best.keras").is_file()
    with pytest.raises(UsageError, match=r"not finished.*best\.keras"):
        run.model()


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"Not a run folder: .*no data\.manifest\.json"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((8, 8, 1), "resnet8"),
        ((28, 28, 1), "lenet5"),
        ((32, 32, 1), "lenet5"),
        ((32, 32, 3), "resnet8"),
        ((96, 28, 1), "resnet8"),
    ],
)
def test_auto_chooses_by_shape(shape, name):
    assert choose(shape) == name
