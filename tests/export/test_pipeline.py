import json
import subprocess
import sys
from dataclasses import dataclass
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnkit.errors import CnnkitError
from cnnkit.errors import UsageError
from cnnkit.training import Run
from cnnkit.training import imbalance
from cnnkit.training.recipe import resolve
from cnnkit.training.reporter import Reporter
from export import ledger
from export import pipeline
from export.pipeline import compress
from export.result import Result
from tests.export import corners

HALF = "prune-filters:ratio=0.5"


def recipe(*sets, **options):
    chosen = {"finetune_epochs": 2, "finetune_lr": 1e-4, **options}
    return resolve(sets=sets, compress=chosen).recipe


class Told:
    def __init__(self):
        self.steps, self.notes, self.epochs = [], [], []
        self.step, self.note, self.epoch = (
            self.steps.append,
            self.notes.append,
            self.epochs.append,
        )
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


@dataclass
class Does:
    """A pass that does what it is told."""

    change: object
    seen: object = None

    def __str__(self):
        return "does"

    def apply(self, model, data):
        self.seen = data
        return Result(self.change(model), {})


def copy(model):
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


@pytest.fixture
def no_finetuning(subject):
    return replace(subject, recipe=recipe(finetune_epochs=0))


def test_passes_shrink_the_model_and_fill_the_ledger(subject):
    before, told = subject.model.get_weights(), Told()
    small = replace(subject, recipe=recipe())
    done = compress(small, [HALF, "prune-filters:ratio=0.25"], reporter=told)
    assert [row.name for row in done.ledger] == [
        "original",
        "1 prune-filters:ratio=0.5",
        "2 prune-filters:ratio=0.25",
    ]
    # By hand: 8 and 8 channels become 4 and 4, then 3 and 3; 16 pixels reach the Dense layer.
    counts = [9 * c + c + 9 * c * c + c + 16 * c * 3 + 3 for c in (8, 4, 3)]
    assert [row.params for row in done.ledger] == counts
    assert done.model.count_params() == counts[-1]
    assert [row.macs for row in done.ledger] == [
        64 * 9 * c + 64 * 9 * c * c + 16 * c * 3 for c in (8, 4, 3)
    ]
    assert done.ledger[-1] == ledger.of_model(
        done.ledger[-1].name, done.model, done.ledger[-1].accuracy
    )
    assert all(row.accuracy is not None for row in done.ledger)
    assert [result.summary["params_after"] for result in done.results] == counts[1:]
    # What came in is as it was.
    assert all(map(np.array_equal, subject.model.get_weights(), before))
    assert subject.model.count_params() == counts[0]
    assert done.subject.dataset is subject.dataset
    assert (done.subject.labels, done.subject.name) == (subject.labels, subject.name)
    # Each pass was told of and fine-tuned.
    assert told.steps == [f"compressing: {row.name[2:]}" for row in done.ledger[1:]]
    assert [row["epoch"] for row in told.epochs] == [1, 2, 1, 2]
    assert any("parameters removed" in note for note in told.notes)


def test_without_data_nothing_is_finetuned(subject):
    told = Told()
    model = corners.network(end="deployable")
    before = model.get_weights()
    done = compress(model, [HALF], recipe=recipe(), reporter=told)
    assert told.epochs == []
    assert [row.accuracy for row in done.ledger] == [None, None]
    assert done.model.count_params() < model.count_params()
    assert all(map(np.array_equal, model.get_weights(), before))


def test_no_epochs_no_finetuning(no_finetuning):
    told = Told()
    compress(no_finetuning, [HALF], reporter=told)
    assert told.epochs == []


@pytest.mark.parametrize("change", [lambda model: model, copy])
def test_finetuning_does_not_reach_the_input_model(subject, change):
    """Not even if a pass finds nothing to do and returns what it was given."""
    before = subject.model.get_weights()
    done = compress(replace(subject, recipe=recipe(finetune_lr=1e-2)), [Does(change)])
    assert all(map(np.array_equal, subject.model.get_weights(), before))
    assert not all(map(np.array_equal, done.model.get_weights(), before))


def test_a_pass_learns_from_training_pictures_only(no_finetuning):
    step = Does(copy)
    compress(no_finetuning, [step])
    x, y = no_finetuning.dataset.arrays("train")
    rows = {picture.tobytes(): label for picture, label in zip(x, y, strict=True)}
    assert step.seen.x.dtype == np.float32
    assert len(step.seen.x) == min(len(x), pipeline.SAMPLE)
    for picture, label in zip(step.seen.x, step.seen.y, strict=True):
        assert rows[picture.astype("uint8").tobytes()] == label
    compress(replace(no_finetuning, dataset=None), [step])
    assert (step.seen.x, step.seen.y) == (None, None)
    model = no_finetuning.model
    assert step.seen.recover(model) is model


def finetuned(subject, *sets):
    """Returns the features of the training pictures, and the logits, after the last epoch."""
    step = Does(copy)
    compress(replace(subject, recipe=recipe(*sets, finetune_epochs=0)), [step])
    model = step.seen.train(copy(subject.model), epochs=4, lr=1e-2, keep_best=False)
    ends = [model.get_layer(name).output for name in ("flat", "logits")]
    return keras.Model(model.inputs[0], ends).predict(step.seen.x, verbose=0), step.seen.y


def test_finetuning_draws_classes_together_if_the_recipe_does(subject):
    """9.1.5: the centre loss, which needs the features."""
    found = []
    for weight in (0, 1):
        (f, _), y = finetuned(subject, f"loss.center_weight={weight}")
        found.append(np.mean([f[y == c].var(0).sum() for c in range(3)]))
    assert found[1] < 0.5 * found[0], found


def test_finetuning_keeps_the_large_margin(subject):
    """9.1.4: what it minimises is not the cross-entropy."""
    (_, plain), _ = finetuned(subject)
    (_, margin), _ = finetuned(subject, "loss.name=large_margin", "loss.margin=4")
    assert abs(plain - margin).max() > 0.1


def test_what_finetuning_cannot_minimise_is_told(subject):
    told = Told()
    chosen = recipe("loss.name=large_margin", "loss.center_weight=0.1", teacher="original")
    compress(replace(subject, recipe=chosen), [HALF], reporter=told)
    assert told.warnings == [
        "fine-tuning learns from the teacher, and not by loss.name=large_margin and "
        "loss.center_weight=0.1"
    ]
    told.warnings.clear()
    chosen = recipe("loss.center_weight=0.1", finetune_epochs=1)
    compress(replace(subject, recipe=chosen), ["qat"], reporter=told)
    (text,) = told.warnings
    assert text.startswith("fine-tuning does not learn by loss.center_weight=0.1: The loss needs a")


class Seen(keras.losses.Loss):
    """The cross-entropy, which counts the labels, and how sure the least sure of them is."""

    def __init__(self):
        super().__init__()
        self.labels, self.least = tf.Variable(tf.zeros(3)), tf.Variable(1.0)

    def call(self, y, h):
        self.labels.assign_add(tf.reduce_sum(y, 0))
        self.least.assign(tf.minimum(self.least, tf.reduce_min(tf.reduce_max(y, 1))))
        return keras.losses.categorical_crossentropy(y, h, from_logits=True)


def seen(subject, told, *sets, epochs=3):
    """Returns how often fine-tuning sees each class in an epoch, and its least sure label."""
    step, seen = Does(copy), Seen()
    compress(replace(subject, recipe=recipe(*sets, finetune_epochs=0)), [step], reporter=told)
    step.seen.train(copy(subject.model), epochs=epochs, loss=seen)
    validated = np.bincount(subject.dataset.labels("val"), minlength=3)
    return seen.labels.numpy() / epochs - validated, float(seen.least)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """The network with pictures of which one class has few."""
    x, y = corners.pictures(300)
    kept = np.sort(np.concatenate([np.flatnonzero(y == c)[:n] for c, n in enumerate((8, 80, 80))]))
    path = tmp_path_factory.mktemp("data") / "uneven.npz"
    np.savez(path, x=x[kept], y=np.array(corners.LABELS)[y[kept]])
    return corners.subject(path)


def test_finetuning_sees_a_rare_class_as_often_as_training_does(uneven):
    """12.1"""
    counts, told = np.bincount(uneven.dataset.labels("train")), Told()
    assert counts.tolist() == [6, 56, 56]
    as_they_are, _ = seen(uneven, told, "imbalance.method=none")
    np.testing.assert_allclose(as_they_are, counts)
    assert told.notes == []
    balanced, _ = seen(uneven, told)
    drawn = [
        np.bincount(uneven.dataset.labels("train")[imbalance.sampler(recipe(), uneven.dataset)(e)])
        for e in range(3)
    ]
    np.testing.assert_allclose(balanced, np.mean(drawn, 0), rtol=1e-5)
    assert balanced.min() > 3 * counts.min()
    assert any("fine-tuning: the largest class has" in note for note in told.notes)


def test_finetuning_augments_as_training_does(subject):
    """5.1: mixed pictures have mixed labels."""
    told = Told()
    mixed = ("augment.mixup=1", "augment.off_last_epochs=1")
    assert seen(subject, told)[1] == 1
    assert told.notes == []
    assert seen(subject, told, *mixed)[1] < 0.8
    assert told.notes == ["fine-tuning: augmented by MixUp(alpha=1.0)"]
    told.notes.clear()
    assert seen(subject, told, *mixed, epochs=1)[1] < 0.8
    assert told.notes[1].startswith("augment.off_last_epochs=1 leaves none of 1 epochs")


def test_no_passes_measure_the_model_only(no_finetuning):
    done = compress(no_finetuning, [])
    assert [row.name for row in done.ledger] == ["original"]
    assert done.model is no_finetuning.model


def with_nan(model):
    broken = copy(model)
    kernel, bias = broken.get_layer("second").get_weights()
    kernel[0, 0, 0, 0] = np.nan
    broken.get_layer("second").set_weights([kernel, bias])
    return broken


@pytest.mark.parametrize("has_data", [True, False])
def test_nan_after_a_pass_is_refused(no_finetuning, has_data):
    subject = no_finetuning if has_data else replace(no_finetuning, dataset=None)
    with pytest.raises(UsageError, match=r"gives NaN after a pass: does\. Prune less"):
        compress(subject, [Does(with_nan)])


def test_another_shape_after_a_pass_is_refused(no_finetuning):
    def other(model):
        return keras.Model(model.input, model.get_layer("flat").output)

    with pytest.raises(CnnkitError, match=r"changed the shape.*does.*\(None, 3\).*\(None, 128\)"):
        compress(no_finetuning, [Does(other)])


def test_a_wrong_pass_is_refused_before_anything_heavy():
    code = """
import sys
from cnnkit.errors import UsageError
from export.pipeline import compress
try:
    compress("missing.keras", ["prune-filters", "prune-filtres:ratio=0.5"])
except UsageError as error:
    print(error)
print("tensorflow" in sys.modules, "keras" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    refused, imported = done.stdout.splitlines()
    assert refused.startswith("Unknown pass 'prune-filtres'. Closest: prune-filters")
    assert imported == "False False"


PRUNED = "prune-weights:ratio=0.6,epochs=1,measure=false"


def zeros(model):
    return {w.path: int((np.asarray(w) == 0).sum()) for w in model.weights if w.name == "kernel"}


def test_zeros_survive_later_passes_and_finetuning(subject):
    """With rates so high that every weight which may move does."""
    lively = replace(subject, recipe=recipe(finetune_lr=1e-2))
    first = compress(lively, [PRUNED])
    size = sum(w.shape.num_elements() for w in first.model.weights if w.name == "kernel")
    assert sum(zeros(first.model).values()) == pytest.approx(0.6 * size, abs=1)
    both = compress(lively, [PRUNED, "prune-filters:ratio=0.25"])
    kernel = both.model.get_layer("second").kernel
    assert tuple(kernel.shape) == (3, 3, 6, 6)
    # Six of eight by six of eight: by hand, from what the first pass left.
    pruned, cut = (result.model for result in (both.results[0], both.results[1]))
    kept_in, kept_out = (both.results[1].index_map[name] for name in ("first", "second"))
    part = np.asarray(pruned.get_layer("second").kernel)[:, :, kept_in][..., kept_out]
    np.testing.assert_array_equal(np.asarray(kernel) == 0, part == 0)
    assert (np.asarray(kernel) != part)[part != 0].any()
    assert cut is both.model
    assert both.ledger[2].nonzeros < both.ledger[1].nonzeros < both.ledger[0].nonzeros


def test_sparser_step_by_step(subject):
    done = compress(
        replace(subject, recipe=recipe()), [PRUNED, PRUNED.replace("ratio=0.6", "ratio=0.8")]
    )
    for before, after in zip(done.results[0].model.weights, done.model.weights, strict=True):
        if before.name == "kernel":
            assert not np.asarray(after)[np.asarray(before) == 0].any()
    assert done.results[1].summary["ratio"] == pytest.approx(0.8, abs=0.001)


def without_zeros(model):
    dense = copy(model)
    dense.get_layer("second").kernel.assign(np.ones((3, 3, 8, 8)))
    return dense


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_pass_that_undoes_zeros_is_refused(subject, epochs):
    subject = replace(subject, recipe=recipe(finetune_epochs=epochs))
    with pytest.raises(
        UsageError,
        match=r"undoes what an earlier one did: does\. Received at least \d+ removed weights of "
        r"second/kernel are not zero any more\. Put the passes in another order",
    ):
        compress(subject, [PRUNED, Does(without_zeros)])


def test_a_compressed_run_can_be_opened_and_compressed_again(subject, tmp_path):
    done = compress(replace(subject, recipe=recipe(finetune_epochs=0)), [HALF])
    out = pipeline.write_run(done, tmp_path / "small")
    assert pipeline.read_ledger(out) == done.ledger
    (out / "metrics.csv").write_text("epoch,loss\n1,0.5\n")
    (out / "health.json").write_text('[{"epoch": 1, "said": ["dead"]}]')
    (out / "plots").mkdir()
    (out / "plots" / "augmented.png").write_bytes(b"png")
    again = compress(out, ["prune-filters:ratio=0.25"])
    run = Run.open(pipeline.write_run(again, tmp_path / "smaller"))
    assert (run.folder / "plots" / "augmented.png").read_bytes() == b"png"
    assert (run.metrics, run.health) == ([{"epoch": 1, "loss": 0.5}], ["dead"])
    assert again.ledger[0].params == done.ledger[-1].params
    assert again.ledger[0].accuracy == done.ledger[-1].accuracy
    assert again.subject.labels == subject.labels
    assert again.subject.dataset.ids("test") == subject.dataset.ids("test")


def test_a_checkpoint_goes_on_where_it_was_left(subject, tmp_path):
    subject = replace(subject, recipe=recipe(finetune_epochs=1))
    passes = ["prune-weights:ratio=0.5,measure=false", HALF]
    whole = compress(subject, passes, checkpoint=tmp_path / "a")
    compress(subject, passes[:1], checkpoint=tmp_path / "b")
    told = []

    class Listener(Reporter):
        def note(self, text):
            told.append(text)

        def step(self, text):
            told.append(text)

    again = compress(subject, passes, checkpoint=tmp_path / "b", reporter=Listener())
    assert "1 of 2 passes were done before" in told
    assert [t for t in told if t.startswith("compressing: ")] == [f"compressing: {HALF}"]
    assert [row.params for row in again.ledger] == [row.params for row in whole.ledger]
    assert again.results[0].summary == json.loads(json.dumps(whole.results[0].summary))
    # The zeros of the first pass are kept through the fine-tuning of the second.
    zeros = sum(int((w == 0).sum()) for w in again.model.get_weights() if w.ndim > 1)
    assert zeros > 0
    other = replace(subject, recipe=recipe(finetune_epochs=0))
    told.clear()
    compress(other, passes, checkpoint=tmp_path / "b", reporter=Listener())
    assert "1 of 2 passes were done before" not in told
