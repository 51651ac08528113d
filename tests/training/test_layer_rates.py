import keras
import numpy as np
import pytest

from cnnkit.errors import UsageError
from cnnkit.training import fit as fitting
from cnnkit.training.fit import fit
from cnnkit.training.layer_rates import caught
from cnnkit.training.layer_rates import layered
from cnnkit.training.layer_rates import weights
from cnnkit.training.reporter import Reporter
from tests.training.pictures import Pictures
from tests.training.test_resume import net

LEARNING = {"epochs": 1, "batch_size": 60, "lr": 0.01, "schedule": "constant", "keep_best": False}


class Notes(Reporter):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def moved(**options):
    """Returns how far each weight of a network goes in one step over all pictures."""
    model, start = net(), net().get_weights()
    fit(model, Pictures(), **{**LEARNING, **options})
    paths = [w.path for w in model.weights]
    ends = model.get_weights()
    return {p: e - s for p, e, s in zip(paths, ends, start, strict=True)}


def test_paths_begin_with_a_layer_whatever_it_lies_in():
    inner = keras.Sequential([keras.layers.Dense(3, name="one")], name="inner")
    model = keras.Sequential([keras.Input((2,)), inner, keras.layers.Dense(2, name="two")])
    assert list(weights(model)) == ["one/kernel", "one/bias", "two/kernel", "two/bias"]
    assert list(weights(net())) == [
        *("conv/kernel", "conv/bias"),
        *("bn/gamma", "bn/beta"),
        *("logits/kernel", "logits/bias"),
    ]


@pytest.mark.parametrize("optimizer", ["plain-sgd", "sgd", "momentum-ramp", "adam", "adadelta"])
def test_a_step_is_multiplied(optimizer):
    plain = moved(optimizer=optimizer)
    rates = moved(optimizer=optimizer, layer_lr={"conv/.*": 0.1, "logits/kernel": 3.0})
    factors = {"conv/kernel": 0.1, "conv/bias": 0.1, "logits/kernel": 3.0}
    for path, step in plain.items():
        np.testing.assert_allclose(rates[path], factors.get(path, 1.0) * step, atol=2e-7)


def test_so_is_the_decay():
    options = {"optimizer": "plain-sgd", "weight_decay": 0.5}
    plain, rates = moved(**options), moved(**options, layer_lr={"logits/.*": 0.5})
    np.testing.assert_allclose(rates["logits/kernel"], 0.5 * plain["logits/kernel"], atol=2e-7)
    np.testing.assert_allclose(rates["conv/kernel"], plain["conv/kernel"], atol=2e-7)


def test_gradients_are_cut_together():
    options = {"optimizer": "plain-sgd", "clip_norm": 1e-3}
    plain, rates = moved(**options), moved(**options, layer_lr={"conv/.*": 0.1})
    trained = list(weights(net()))
    assert np.sqrt(sum((plain[p] ** 2).sum() for p in trained)) == pytest.approx(1e-5, rel=1e-2)
    np.testing.assert_allclose(rates["logits/kernel"], plain["logits/kernel"], atol=1e-8)


def test_averages_and_scaled_losses_go_with_it():
    model = net()
    options = {**LEARNING, "optimizer": "adam", "layer_lr": {"conv/.*": 0.5}, "ema": 0.5}
    fit(model, Pictures(), **{**options, "epochs": 2})
    assert np.isfinite(model.get_weights()[0]).all()
    variable = keras.Variable(np.ones(2, "float32"))
    made = layered(keras.optimizers.SGD, [(variable, 0.25)])(1.0)
    scaled = keras.optimizers.LossScaleOptimizer(made, initial_scale=8.0)
    scaled.build([variable])
    scaled.apply([keras.ops.ones(2) * 8.0])
    np.testing.assert_array_equal(variable, [0.75, 0.75])
    assert scaled.learning_rate == 1.0


def test_zero_freezes_and_a_whole_layer_stops_its_averages():
    notes = Notes()
    steps = moved(layer_lr={"bn/.*": 0, "conv/bias": 0}, reporter=notes)
    assert {path for path, step in steps.items() if not step.any()} == {
        *("conv/bias", "bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance"),
    }
    assert notes.notes[0] == "layer_lr: 'bn/.*' is 2 weights, at 0 times the rate"
    assert notes.notes[1] == "layer_lr: 'conv/bias' is 1 weight, at 0 times the rate"
    assert "3 of 8 weight arrays are trained, and frozen normalization" in notes.notes[2]


def test_what_was_frozen_is_given_back_as_it_was():
    model = net()
    model.get_layer("conv").bias.trainable = False
    before = [(w.path, w.trainable) for w in model.weights]
    fit(model, Pictures(), **LEARNING, layer_lr={"bn/.*": 0})
    assert [(w.path, w.trainable) for w in model.weights] == before
    assert all(layer.trainable for layer in model.layers)


@pytest.mark.parametrize(
    ("layer_lr", "message"),
    [
        ({"conv": 0.1}, r"layer_lr: conv\. Expected the whole path.*Closest: conv/"),
        ({"conv/.*": 0.1, ".*/bias": 1}, r"conv/bias, which 'conv/\.\*' catches too"),
        ({"conv/(": 0.1}, "Expected a regular expression"),
        ({"conv/.*": -1.0}, "Expected a finite number >= 0. Received -1"),
    ],
)
def test_wrong_tables_are_refused(layer_lr, message):
    with pytest.raises(UsageError, match=message):
        caught(net(), layer_lr)


def test_with_all_frozen_there_is_nothing_to_do():
    with pytest.raises(UsageError, match="Nothing is left to train"):
        moved(layer_lr={".*": 0})


def test_all_optimizers_can():
    variable = keras.Variable(np.ones(2, "float32"))
    for name, make in fitting.OPTIMIZERS.items():
        optimizer = layered(make, [(variable, 0.5)])(learning_rate=0.1)
        optimizer.build([variable])
        before = np.array(variable)
        optimizer.apply([keras.ops.ones(2)])
        assert (np.array(variable) < before).all(), name
