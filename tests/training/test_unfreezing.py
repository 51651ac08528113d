import keras
import numpy as np
import pytest

from cnnkit.errors import UsageError
from cnnkit.training.fit import fit
from cnnkit.training.unfreezing import before
from cnnkit.training.unfreezing import final
from cnnkit.training.unfreezing import stages
from tests.training.pictures import Pictures
from tests.training.test_resume import KilledError
from tests.training.test_resume import Killer
from tests.training.test_resume import net

STAGED = {
    "epochs": 4,
    "batch_size": 15,
    "lr": 0.02,
    "optimizer": "adam",
    "ema": 0.5,
    "unfreeze": "stages:head=2",
    "layer_lr": {"conv/.*": 0.5},
}


class Weights(keras.callbacks.Callback):
    """Keeps the weights of every epoch, and the rate of its last step."""

    def __init__(self, model):
        super().__init__()
        self.net, self.seen, self.rates = model, [model.get_weights()], []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.net.get_weights())
        self.rates.append(float(self.model.optimizer.learning_rate))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", [("all", 0, 9)]),
        ("head", [("head", 0, 9)]),
        ("deep", [("deep", 0, 9)]),
        ("head_then_all", [("head", 0, 3), ("all", 3, 9)]),
        ("head_then_all:epochs=1", [("head", 0, 1), ("all", 1, 9)]),
        ("stages:deep=2", [("deep", 0, 2), ("all", 2, 9)]),
        ("stages:deep=2,head=3", [("head", 0, 3), ("deep", 3, 5), ("all", 5, 9)]),
    ],
)
def test_stages(text, expected):
    made = stages(text, 9)
    assert [(s.part, s.start, s.end) for s in made] == expected
    assert [s.last for s in made] == [False] * (len(made) - 1) + [True]


def test_final_parts():
    texts = ("head", "deep", "head_then_all", "stages:head=1")
    assert [final(text) for text in texts] == ["head", "deep", "all", "all"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tail", "Unknown plan of unfreezing 'tail'"),
        ("stages", "No stage given"),
        ("stages:head=0", "a number of epochs, at least 1. Received 0"),
        ("stages:all=1", "Unknown option of plan of unfreezing 'stages' 'all'"),
        ("stages:head=4,deep=5", "No epoch is left.*more than 9 epochs. Received 9"),
    ],
)
def test_wrong_plans_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        stages(text, 9)


def test_layers_without_kernels_go_with_the_kernel_before_them():
    names = ["conv1", "bn1", "conv2", "bn2", "dense", "softmax"]
    make = {
        "conv": lambda name: keras.layers.Conv2D(2, 1, name=name),
        "bn": lambda name: keras.layers.BatchNormalization(name=name),
        "dens": lambda name: keras.layers.Dense(2, name=name),
        "softma": lambda name: keras.layers.Softmax(name=name),
    }
    model = keras.Sequential([keras.Input((4, 4, 2)), *(make[n[:-1]](n) for n in names)])
    assert [x.name for x in before("head", model.layers)] == names[:4]
    assert [x.name for x in before("deep", model.layers)] == names[:2]
    assert before("all", model.layers) == []


def test_the_last_layer_first_and_then_all():
    model = net()
    watch = Weights(model)
    options = {**STAGED, "ema": 0.0, "schedule": "cosine"}
    fit(model, Pictures(), **options, callbacks=[watch])
    paths = [w.path for w in model.weights]
    for epoch in range(4):
        steps = zip(paths, watch.seen[epoch], watch.seen[epoch + 1], strict=True)
        changed = {path for path, old, new in steps if (old != new).any()}
        assert changed == ({"logits/kernel", "logits/bias"} if epoch < 2 else set(paths))
    # The schedule goes on where the stage before it was.
    expected = [0.01 * (1 + np.cos(np.pi * k / 4)) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(watch.rates, expected, atol=1e-8)


@pytest.fixture(scope="module")
def whole():
    model = net()
    return model, fit(model, Pictures(), **STAGED).rows


@pytest.mark.parametrize("epoch", [2, 3])
def test_killed_in_or_between_stages_it_goes_on_to_the_same_weights(epoch, whole, tmp_path):
    model, rows = net(), whole[1]
    with pytest.raises(KilledError):
        fit(net(), Pictures(), **STAGED, folder=tmp_path, reporter=Killer(epoch))
    again = fit(model, Pictures(), **STAGED, folder=tmp_path, resume=True).rows
    assert [r["loss"] for r in again] == [r["loss"] for r in rows]
    for a, b in zip(whole[0].get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_patience_ends_no_stage_but_the_last():
    options = {**STAGED, "epochs": 6, "unfreeze": "stages:head=3", "lr": 1e-9}
    assert len(fit(net(), Pictures(), **options, patience=1).rows) in (4, 5)
