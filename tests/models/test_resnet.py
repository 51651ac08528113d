import keras
import numpy as np
import pytest

from cnnkit import models
from cnnkit.analysis import macs
from tests.contracts.parts import perturb
from tests.specs import Spec


def spec(name):
    return Spec(
        "model",
        name,
        lambda: models.build(name, (64, 64, 3), 5, width=1 / 16),
        input_shape=(64, 64, 3),
        deep=name not in ("resnet18", "resnet50"),
    )


DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnet152": 152}
SPECS = tuple(spec(name) for name in (*DEPTHS, "plain18", "plain34"))


@pytest.mark.parametrize("name", DEPTHS)
def test_depth(name, symbolic):
    model = symbolic(name, (224, 224, 3), 1000)
    weighted = [x for x in model.layers if isinstance(x, keras.layers.Conv2D | keras.layers.Dense)]
    assert len([x for x in weighted if "shortcut" not in x.name]) == DEPTHS[name]
    last = model.get_layer("pool").input.shape[1:]
    assert last == (7, 7, 512 if DEPTHS[name] < 50 else 2048)


@pytest.mark.parametrize(
    ("name", "billions"),
    list(
        {  # table 1
            "resnet18": 1.8,
            "resnet34": 3.6,
            "resnet50": 3.8,
            "resnet101": 7.6,
            "resnet152": 11.3,
        }.items()
    ),
)
def test_multiply_adds_of_the_paper(name, billions, symbolic):
    total = macs.total(symbolic(name, (224, 224, 3), 1000))
    assert total / 1e9 == pytest.approx(billions, abs=0.1)


@pytest.mark.parametrize("depth", [18, 34])
def test_plain_networks_are_the_twins_without_shortcuts(depth, symbolic):
    plain = symbolic(f"plain{depth}", (224, 224, 3), 1000)
    twin = symbolic(f"resnet{depth}", (224, 224, 3), 1000, shortcut="none")
    assert [(w.path, w.shape) for w in plain.weights] == [(w.path, w.shape) for w in twin.weights]
    assert not [layer for layer in plain.layers if "_add" in layer.name]
    padded = symbolic(f"resnet{depth}", (224, 224, 3), 1000, shortcut="A")
    assert [w.path for w in padded.weights] == [w.path for w in plain.weights]


def theirs(name):
    """Returns what keras.applications calls a layer."""
    if name.startswith("stem"):
        return name.replace("stem", "conv1")
    stage, rest = name.removeprefix("stage").split("_", 1)
    return f"conv{int(stage) + 1}_{rest.replace('shortcut', '0')}"


def test_resnet50_gives_the_outputs_of_keras_applications():
    oracle = perturb(
        keras.applications.ResNet50(
            weights=None, input_shape=(65, 64, 3), classes=7, classifier_activation=None
        )
    )
    model = models.build("resnet50", (65, 64, 3), 7)
    model.get_layer("logits").set_weights(oracle.get_layer("predictions").get_weights())
    for conv in model.layers:
        if isinstance(conv, keras.layers.Conv2D):
            kernel, bias = oracle.get_layer(theirs(conv.name)).get_weights()
            conv.set_weights([kernel])
            norm = model.get_layer(conv.name.replace("_conv", "_bn"))
            other = oracle.get_layer(theirs(norm.name))
            gamma, beta, mean, variance = other.get_weights()
            variance += other.epsilon - norm.epsilon
            norm.set_weights([gamma, beta, mean - bias, variance])
    x = np.random.default_rng(0).normal(size=(2, 65, 64, 3)).astype("float32")
    want = np.asarray(oracle(x, training=False))
    np.testing.assert_allclose(model(x, training=False), want, rtol=1e-3, atol=1e-4 * want.std())
