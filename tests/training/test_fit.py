import csv
import json
import math
import subprocess
import sys

import keras
import numpy as np
import pytest

from cnnkit.analysis.logits import outputs_probabilities
from cnnkit.errors import DivergedError
from cnnkit.errors import UsageError
from cnnkit.models.saving import load_model
from cnnkit.training import fit as fitting
from cnnkit.training.evaluate import evaluate
from cnnkit.training.fit import FAILURE
from cnnkit.training.fit import fit
from cnnkit.training.keeper import BEST
from cnnkit.training.keeper import LAST
from cnnkit.training.keeper import MACRO_F1
from cnnkit.training.keeper import METRICS
from cnnkit.training.keeper import Keeper
from cnnkit.training.pipeline import Batches
from cnnkit.training.pipeline import order
from cnnkit.training.reporter import Reporter
from cnnkit.training.train import deployable
from cnnkit.training.unfreezing import Stage
from tests.training.pictures import Pictures
from tests.training.pictures import Unequal


def net(classes=3, *, end=None):
    layers = keras.layers
    x = image = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 255, name="scale")(x)
    x = layers.Conv2D(4, 3, name="conv")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Flatten(name="flatten")(layers.ReLU(name="relu")(x))
    x = layers.Dense(classes, name="logits")(x)
    return keras.Model(image, x if end is None else end(x))


class Recorder(Reporter):
    def __init__(self):
        self.rows = []

    def epoch(self, row):
        self.rows.append(row)


def accuracy(model, dataset, split):
    x, y = dataset.arrays(split)
    return np.mean(model.predict(x.astype("float32"), verbose=0).argmax(1) == y)


def test_learns_and_leaves_no_compile_state(tmp_path):
    data, model, heard = Pictures(), net(end=keras.layers.Softmax()), Recorder()
    history = fit(model, data, epochs=8, batch_size=8, lr=0.01, folder=tmp_path, reporter=heard)
    assert not model.compiled
    assert accuracy(model, data, "test") > 0.9
    assert heard.rows == history.rows
    with (tmp_path / METRICS).open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [row["epoch"] for row in history.rows]
    assert float(rows[3]["val_loss"]) == pytest.approx(history.rows[3]["val_loss"], rel=1e-4)
    names = ["best.keras", "checkpoints", "last.keras", METRICS, "state-00008.npz", "state.json"]
    assert sorted(p.name for p in tmp_path.rglob("*")) == names


def test_best_epoch_is_the_most_accurate_then_the_one_of_least_loss(tmp_path):
    data, model = Pictures(), net()
    history = fit(model, data, epochs=8, batch_size=8, lr=0.03, folder=tmp_path)
    rank = {r["epoch"]: (r["val_accuracy"], -r["val_loss"]) for r in history.rows}
    assert history.best_epoch == max(rank, key=rank.get)
    assert accuracy(model, data, "val") == pytest.approx(rank[history.best_epoch][0], abs=1e-6)
    for mine, saved in zip(
        model.get_weights(), load_model(tmp_path / BEST).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, saved)


def test_with_uneven_classes_the_best_epoch_is_that_of_the_highest_macro_f1(tmp_path):
    keras.utils.set_random_seed(0)
    data, model = Unequal(4, 40, 40), net()
    history = fit(model, data, epochs=8, batch_size=16, lr=0.003, folder=tmp_path)
    rank = {r["epoch"]: (r[MACRO_F1], -r["val_loss"]) for r in history.rows}
    assert len(set(rank.values())) > 1
    assert history.best_epoch == max(rank, key=rank.get)
    scores = evaluate(lambda x: model.predict(x.astype("float32"), verbose=0), data, "val")
    assert scores.macro_f1 == pytest.approx(rank[history.best_epoch][0], abs=1e-5)
    with (tmp_path / METRICS).open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row[MACRO_F1]) for row in rows] == pytest.approx(
        [row[MACRO_F1] for row in history.rows], rel=1e-4
    )


def test_even_classes_have_no_macro_f1(tmp_path):
    fit(net(), Unequal(10, 20, 30), epochs=1, folder=tmp_path)
    assert MACRO_F1 not in (tmp_path / METRICS).read_text()


def test_macro_f1_goes_before_accuracy_and_is_never_nan():
    model = net()
    model.compile("sgd", "mse")
    keeper = Keeper(model, 5, None, Reporter())
    keeper.set_model(model)
    keeper.start(model, float, Stage("all", 0, 5, last=True))
    logs = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0}
    best = []
    for accuracy, f1 in ((0.1, math.nan), (0.6, 0.5), (0.5, 0.6), (0.9, 0.55), (1.0, math.nan)):
        keeper.on_epoch_begin(keeper.epoch)
        keeper.on_epoch_end(keeper.epoch, {**logs, "val_accuracy": accuracy, MACRO_F1: f1})
        best.append(keeper.best_epoch)
    assert best == [0, 2, 3, 3, 3]


def test_logits_and_probabilities_train_alike():
    def trained(end):
        keras.utils.set_random_seed(3)
        model = net(end=end)
        fit(model, Pictures(), epochs=2, batch_size=16, lr=0.01, label_smoothing=0.1)
        return model.get_weights()

    ends = (None, keras.layers.Softmax(), keras.layers.Activation("softmax"), keras.ops.softmax)
    first, *others = map(trained, ends)
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (None, False),
        (keras.layers.Softmax(), True),
        (keras.layers.Activation("softmax"), True),
        (keras.layers.Dense(3, activation="softmax"), True),
        (keras.layers.Dense(3, activation="linear"), False),
        (lambda x: keras.layers.Activation("linear")(keras.layers.Softmax()(x)), True),
        (lambda x: keras.Sequential([keras.Input((3,)), keras.layers.Softmax()])(x), True),
        (lambda x: keras.layers.ReLU()(keras.layers.Softmax()(x)), False),
    ],
)
def test_recognizes_probabilities(end, expected):
    assert outputs_probabilities(net(end=end)) is expected


def test_order_depends_on_seed_and_epoch_alone():
    np.testing.assert_array_equal(order(1, 5, 50), order(1, 5, 50))
    assert sorted(order(1, 5, 50)) == list(range(50))
    assert not np.array_equal(order(1, 5, 50), order(1, 6, 50))
    assert not np.array_equal(order(1, 5, 50), order(2, 5, 50))


def test_batches_are_not_tuned():
    # The tuning thread of tf.data could sleep on for ten seconds after the last batch.
    batches = Batches(np.zeros((4, 2, 2, 1)), np.arange(4), 4, 2)
    assert batches.stream().options().autotune.enabled is False
    assert [x.shape[0] for x, _ in batches.stream()] == [2, 2]


def test_batches_are_even_and_hold_every_picture_once():
    x, y = Pictures(train=33).arrays("train")
    batches = Batches(x, y, 3, 16, seed=0)
    found = list(batches.stream([4]).as_numpy_iterator())
    assert [len(labels) for _, labels in found] == [11, 11, 11]
    assert {pixels.dtype for pixels, _ in found} == {np.dtype("float32")}
    expected = order(0, 4, 33)
    np.testing.assert_array_equal(np.concatenate([p for p, _ in found]), x[expected])
    np.testing.assert_array_equal(np.concatenate([q for _, q in found]).argmax(1), y[expected])


def test_same_seed_same_weights():
    def trained(seed):
        keras.utils.set_random_seed(0)
        model = net()
        fit(model, Pictures(), epochs=2, batch_size=16, lr=0.01, seed=seed)
        return np.concatenate([w.ravel() for w in model.get_weights()])

    np.testing.assert_array_equal(trained(0), trained(0))
    assert not np.array_equal(trained(0), trained(1))


def test_deterministic_operations_train_too():
    code = (
        "import keras, numpy as np\n"
        "from cnnkit.training.fit import fit\n"
        "from tests.training.pictures import Pictures\n"
        "from tests.training.test_fit import net\n"
        "found = []\n"
        "for _ in range(2):\n"
        "    keras.utils.set_random_seed(0)\n"
        "    model = net()\n"
        "    fit(model, Pictures(), epochs=2, batch_size=16, deterministic=True)\n"
        "    found.append(np.concatenate([w.ravel() for w in model.get_weights()]))\n"
        "from tensorflow.python.framework import config\n"
        "assert config.is_op_determinism_enabled()\n"
        "np.testing.assert_array_equal(*found)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_huge_rate_diverges_and_keeps_finite_weights(tmp_path):
    model = net()
    with pytest.raises(
        DivergedError, match=r"epoch \d+: batch \d+ with train/.*lower learning rate"
    ) as caught:
        fit(model, Pictures(), epochs=5, lr=1e30, optimizer="sgd", folder=tmp_path)
    assert caught.value.exit_code == 5
    assert str(tmp_path / BEST) in str(caught.value)
    for weights in (model.get_weights(), load_model(tmp_path / BEST).get_weights()):
        assert all(np.isfinite(w).all() for w in weights)


class Poison(Reporter):
    """Puts a NaN into a picture after the second epoch."""

    def __init__(self, x):
        self.x = x

    def epoch(self, row):
        if row["epoch"] == 2:
            self.x[0] = np.nan


def test_nan_after_two_epochs_gives_back_the_best_of_the_finite_ones(tmp_path):
    # Batches are made ready ahead, so an epoch or two more may still be of sound pictures.
    data, model = Pictures(dtype=np.float32), net()
    poison = Poison(data.arrays("train")[0])
    with pytest.raises(DivergedError, match=r"epoch \d+.*weights of epoch \d+ are kept"):
        fit(model, data, epochs=30, batch_size=4, lr=0.01, folder=tmp_path, reporter=poison)
    with (tmp_path / METRICS).open() as file:
        rows = list(csv.DictReader(file))
    assert 2 <= len(rows) < 30
    best = max(float(row["val_accuracy"]) for row in rows)
    assert accuracy(model, data, "val") == pytest.approx(best, abs=1e-5)
    assert accuracy(load_model(tmp_path / BEST), data, "val") == pytest.approx(best, abs=1e-5)


def test_a_diverged_training_names_its_pictures(tmp_path):
    data = Pictures(dtype=np.float32)
    data.arrays("train")[0][7] = np.nan
    with pytest.raises(DivergedError):
        fit(net(), data, epochs=1, batch_size=8, folder=tmp_path)
    told = json.loads((tmp_path / FAILURE).read_text())
    assert data.ids("train")[7] in told["pictures"]
    assert len(told["pictures"]) <= 8
    assert told["received"] == "the loss is nan"


def test_goes_back_and_on_at_half_the_rate(tmp_path):
    class Mend(Reporter):
        def warn(self, text):
            said.append(text)

    said, model = [], net()
    with pytest.raises(DivergedError, match="after going back 2 times"):
        fit(model, Pictures(), epochs=3, lr=1e30, optimizer="sgd", retries=2, reporter=Mend())
    assert ["(1 of 2)" in said[0], "(2 of 2)" in said[1], len(said)] == [True, True, 2]
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_goes_on_with_the_epoch_that_diverged():
    class Mend(Reporter):
        def warn(self, text):
            x[7] = 0

    data = Pictures(dtype=np.float32)
    x = data.arrays("train")[0]
    x[7] = np.nan
    options = {"epochs": 3, "batch_size": 16, "lr": 0.01, "schedule": "constant"}
    history = fit(net(), data, retries=1, reporter=Mend(), **options)
    assert [(row["epoch"], row["lr"]) for row in history.rows] == [
        (epoch, pytest.approx(0.005)) for epoch in (1, 2, 3)
    ]


def test_averaged_weights_are_what_is_validated_and_kept(tmp_path):
    data = Pictures()
    keras.utils.set_random_seed(0)
    plain = net()
    fit(plain, data, epochs=3, batch_size=8, lr=0.01)
    keras.utils.set_random_seed(0)
    model = net()
    history = fit(model, data, epochs=3, batch_size=8, lr=0.01, ema=0.9, folder=tmp_path)
    row = history.rows[history.best_epoch - 1]
    assert accuracy(model, data, "val") == pytest.approx(row["val_accuracy"], abs=1e-6)
    assert not np.array_equal(model.get_weights()[0], plain.get_weights()[0])
    # The last weights are those that were trained, not their average: a momentum changes nothing.
    np.testing.assert_allclose(
        load_model(tmp_path / LAST).get_layer("conv").get_weights()[0],
        _last(data).get_layer("conv").get_weights()[0],
        atol=1e-6,
    )


def _last(data):
    keras.utils.set_random_seed(0)
    model = net()
    fit(model, data, epochs=3, batch_size=8, lr=0.01, keep_best=False)
    return model


def test_large_gradients_are_clipped():
    def step(clip_norm):
        keras.utils.set_random_seed(0)
        model = net()
        before = model.get_weights()
        fit(
            model,
            Pictures(),
            epochs=1,
            batch_size=64,
            lr=1.0,
            optimizer="plain-sgd",
            schedule="constant",
            clip_norm=clip_norm,
            keep_best=False,
        )
        moved = [b - a for a, b in zip(before, model.get_weights(), strict=True)]
        kernels = [m for m, w in zip(moved, model.weights, strict=True) if w.trainable]
        return math.sqrt(sum(float(np.square(m).sum()) for m in kernels))

    assert step(1e-3) == pytest.approx(1e-3, rel=1e-3)
    assert step(None) > 1e-2


def test_the_time_is_over_at_the_end_of_an_epoch():
    assert len(fit(net(), Pictures(), epochs=50, time_limit=1e-6).rows) == 1


def test_nan_is_never_best():
    keeper = Keeper(net(), 5, None, Reporter())
    keeper.set_model(net())
    before = [w.copy() for w in keeper.weights]
    keeper.on_train_batch_end(0, {"loss": math.inf})
    keeper.on_epoch_end(0, {"loss": 1.0, "accuracy": 1.0, "val_loss": 1.0, "val_accuracy": 1.0})
    assert keeper.best_epoch == 0
    assert keeper.rows == []
    assert keeper.model.stop_training
    for a, b in zip(before, keeper.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_patience_ends_training():
    history = fit(net(), Pictures(), epochs=30, batch_size=16, lr=1e-12, patience=2)
    assert len(history.rows) == history.best_epoch + 2


def test_without_validation_the_training_split_decides():
    history = fit(net(), Pictures(val=0), epochs=3, batch_size=16, lr=0.01)
    assert all("val_loss" not in row for row in history.rows)
    best = max(history.rows, key=lambda row: (row["accuracy"], -row["loss"]))
    assert history.best_epoch == best["epoch"]


@pytest.mark.parametrize("optimizer", fitting.OPTIMIZERS)
def test_decay_spares_biases_and_norms(optimizer):
    made = fitting._optimizer(optimizer, 0.1, 10, weight_decay=0.5)
    model = net()
    made.build(model.trainable_variables)
    decayed = {v.path for v in model.trainable_variables if made._use_weight_decay(v)}
    assert decayed == {"conv/kernel", "logits/kernel"}


def test_unknown_optimizer_and_schedule_are_named():
    with pytest.raises(UsageError, match=r"optimizer 'adan'.*adam"):
        fit(net(), Pictures(), epochs=1, optimizer="adan")
    with pytest.raises(UsageError, match=r"schedule 'cosin'.*cosine"):
        fit(net(), Pictures(), epochs=1, schedule="cosin")


def test_deployable_normalizes_before_the_net_and_ends_in_a_softmax(tmp_path):
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(image)
    x = layers.Add(name="add")([x, layers.ReLU(name="relu")(x)])
    x = layers.Dense(5, name="logits")(layers.GlobalAveragePooling2D(name="pool")(x))
    inner = keras.Model(image, x, name="tiny")
    mean, scale = [120.0, 100.0, 80.0], [60.0, 50.0, 40.0]
    model = deployable(inner, mean, scale)

    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype("float32")
    want = keras.ops.softmax(inner((pixels - np.array(mean)) / np.array(scale)))
    np.testing.assert_allclose(model(pixels), want, atol=1e-6)
    assert [layer.name for layer in model.layers] == [
        *("image", "pixels", "conv", "relu", "add", "pool", "logits", "probabilities")
    ]
    assert all(layer.output is not None for layer in model.layers)  # raises where ambiguous
    assert (model.inputs[0].name, model.name) == ("image", "tiny")
    model.save(tmp_path / "m.keras")
    np.testing.assert_allclose(load_model(tmp_path / "m.keras")(pixels), want, atol=1e-6)
