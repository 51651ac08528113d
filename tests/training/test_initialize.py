import json
import typing

import keras
import numpy as np
import pytest

from cnnkit.data import DIGITS
from cnnkit.errors import UsageError
from cnnkit.training import resolve
from cnnkit.training.initialize import FROM_DATA
from cnnkit.training.initialize import RANDOM
from cnnkit.training.initialize import initialize
from cnnkit.training.recipe import Init
from cnnkit.training.reporter import Reporter
from cnnkit.training.train import train


def dense(inputs, outputs, init, seed=0):
    image = keras.Input((inputs,), name="image")
    model = keras.Model(image, keras.layers.Dense(outputs, bias_initializer="ones")(image))
    initialize(model, init, np.zeros((0, inputs)), seed)
    return [np.asarray(w) for w in model.layers[-1].get_weights()]


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("xavier-normal", 1 / 400),
        ("xavier-uniform", 1 / 400),
        ("glorot-normal", 2 / 1000),
        ("glorot-uniform", 2 / 1000),
        ("he-normal", 2 / 400),
        ("he-uniform", 2 / 400),
    ],
)
def test_variance_is_that_of_the_book(init, variance):
    kernel, bias = dense(400, 600, init)
    assert kernel.var() == pytest.approx(variance, rel=0.02)
    assert abs(kernel.mean()) < 0.02 * kernel.std()
    assert not bias.any()
    if "uniform" in init:  # sqrt(3 / n) and sqrt(6 / n)
        limit = np.sqrt(3 * variance)
        assert 0.999 * limit < np.abs(kernel).max() <= limit
    else:
        assert np.abs(kernel).max() > 3.5 * np.sqrt(variance)  # not cut off at two deviations


def test_xavier_keeps_the_variance_and_he_keeps_it_behind_relu():
    """Eq. 7.1 to 7.5, through ten layers."""
    x = np.random.default_rng(0).normal(size=(200, 300)).astype("float32")
    for init, activation in (("xavier-normal", None), ("he-normal", "relu")):
        image = y = keras.Input((300,), name="image")
        for _ in range(10):
            y = keras.layers.Dense(300, activation=activation)(y)
        model = keras.Model(image, y)
        initialize(model, init, x, seed=1)
        out = np.asarray(model(x))
        assert np.square(out).mean() / np.square(x).mean() == pytest.approx(1, abs=0.5)


def test_layers_and_seeds_differ():
    image = y = keras.Input((20,), name="image")
    for _ in range(2):
        y = keras.layers.Dense(20)(y)
    model = keras.Model(image, y)
    kernels = []
    for seed in (0, 0, 1):
        initialize(model, "he-normal", np.zeros((0, 20)), seed)
        kernels.append(model.get_weights()[::2])
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.allclose(kernels[0][0], kernels[0][1])
    assert not np.allclose(kernels[0], kernels[2])


def test_zeros_never_break_their_symmetry():
    """Section 7.1: all neurons of a layer stay the same, so that nothing is learned."""
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    y = (x[:, 0] > 0).astype("float32")
    image = keras.Input((8,), name="image")
    hidden = keras.layers.Dense(5, activation="sigmoid", name="hidden")(image)
    model = keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(hidden))
    spread = {}
    for init in ("zeros", "xavier-normal"):
        initialize(model, init, x)
        model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy")
        model.fit(x, y, epochs=10, shuffle=False, verbose=0)
        kernel = np.asarray(model.get_layer("hidden").kernel)
        spread[init] = np.abs(kernel - kernel[:, :1]).max()
    assert spread["zeros"] < 1e-6
    assert spread["xavier-normal"] > 0.1


def test_the_recipe_takes_what_there_is():
    assert list(typing.get_args(Init)) == ["default", *RANDOM, *FROM_DATA]
    with pytest.raises(UsageError, match=r"initialization 'hee-normal'.*he-normal"):
        dense(3, 3, "hee-normal")


class Notes(Reporter):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_a_run_starts_from_data_and_another_from_its_weights(tmp_path):
    sets = ["train.epochs=1", "model.name=lenet300", "model.width=0.1", "model.init=data-pca"]
    run = train(DIGITS, resolve(sets=sets), tmp_path / "first")
    origins = json.loads((run.folder / "config.resolved.json").read_text())
    assert origins["model.init"] == {"value": "data-pca", "from": "--set"}
    assert run.metrics[0]["accuracy"] > 0.15
    heard = Notes()
    sets = [*sets[:3], f"model.pretrained={run.folder}", "train.lr=1e-9"]
    again = train(DIGITS, resolve(sets=sets), tmp_path / "second", reporter=heard)
    assert any("6 of 6 weights by name" in note for note in heard.notes)
    for a, b in zip(run.model().get_weights(), again.model().get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", ["no.keras", "no-folder"])
def test_a_run_without_its_pretrained_weights_leaves_nothing(name, tmp_path):
    sets = ["model.name=lenet300", f"model.pretrained={tmp_path / name}"]
    with pytest.raises(UsageError, match="No weights can be read"):
        train(DIGITS, resolve(sets=sets), tmp_path / "run")
    assert not (tmp_path / "run").exists()
