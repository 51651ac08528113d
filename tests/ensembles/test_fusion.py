import keras
import numpy as np
import pytest
from keras import layers

from cnnkit import models
from cnnkit.ensembles import fused
from cnnkit.errors import UsageError
from cnnkit.training.fit import fit
from tests.ensembles.members import member
from tests.ensembles.members import pictures
from tests.training.pictures import Pictures


def test_the_head_sees_means_of_the_chosen_maps():
    model, x = member(1), pictures(6)
    whole = fused(model, ["first", "relu"])
    maps = keras.Model(model.inputs, [model.get_layer(n).output for n in ("first", "relu")])
    means = np.concatenate([np.mean(m, (1, 2)) for m in maps.predict(x, verbose=0)], -1)
    kernel, bias = whole.get_layer("fused_logits").get_weights()
    scores = np.exp(means @ kernel + bias)
    expected = scores / scores.sum(-1, keepdims=True)
    np.testing.assert_allclose(whole.predict(x, verbose=0), expected, atol=1e-5)
    assert kernel.shape == (4 + 8, 3)
    assert "logits" not in [layer.name for layer in whole.layers]  # what is no longer needed
    assert (whole.inputs[0].name, whole.layers[-1].name) == ("image", "probabilities")


def test_a_number_takes_the_last_activated_maps():
    by_name = fused(member(1), ["first", "relu"])
    assert [w.shape for w in fused(member(1), 2).weights] == [w.shape for w in by_name.weights]
    one = fused(member(1), 1)
    assert one.get_layer("fused_logits").kernel.shape == (8, 3)
    same = zip(fused(member(1), 2).get_weights(), by_name.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in same)
    other = fused(member(1), 2, seed=1).get_layer("fused_logits").kernel
    assert not np.array_equal(other, by_name.get_layer("fused_logits").kernel)


def test_more_than_there_are_are_all():
    assert fused(member(1), 9).get_layer("fused_logits").kernel.shape == (4 + 8, 3)


@pytest.mark.parametrize("name", ["resnet8", "squeezenet1_1", "lenet5"])
def test_any_functional_classifier(name):
    whole = fused(models.build(name, (32, 32, 1), 3))
    assert whole(np.zeros((2, 32, 32, 1), "float32")).shape == (2, 3)
    names = [layer.name for layer in whole.layers]
    assert len(set(names)) == len(names)


def test_it_learns():
    whole, data = fused(member(1), 2), Pictures()
    history = fit(whole, data, epochs=15, batch_size=8, lr=0.03)
    assert history.rows[-1]["val_accuracy"] > 0.6


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["logits"], "Not a layer with feature maps.*logits"),
        (["first", "nowhere"], "nowhere"),
        ([], "no layer at all"),
        (0, "nothing to fuse.*2, of which 0 are wanted"),
    ],
)
def test_what_cannot_be_fused(chosen, message):
    with pytest.raises(UsageError, match=message):
        fused(member(1), chosen)


def test_a_model_without_a_graph():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UsageError, match="functional model"):
        fused(Own(name="own"))
    with pytest.raises(UsageError, match=r"nothing to fuse.*0, of which 1"):
        fused(keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3)]), 1)
