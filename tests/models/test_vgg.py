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
        lambda: models.build(name, (32, 32, 3), 5, width=1 / 16),
        input_shape=(32, 32, 3),
        deep=name not in ("vgg11", "vgg11_bn"),
    )


DEPTHS = {"vgg11": 11, "vgg13": 13, "vgg16": 16, "vgg19": 19}
SPECS = tuple(spec(f"{name}{end}") for name in DEPTHS for end in ("", "_bn"))


@pytest.mark.parametrize("end", ["", "_bn"])
@pytest.mark.parametrize("name", DEPTHS)
def test_depth_and_maps(name, end, symbolic):
    model = symbolic(name + end, (224, 224, 3), 1000)
    weighted = [x for x in model.layers if isinstance(x, keras.layers.Conv2D | keras.layers.Dense)]
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(weighted) == DEPTHS[name]
    assert len(norms) == (len(weighted) - 3 if end else 0)
    maps = [model.get_layer(f"block{i}_pool").output.shape[1:] for i in range(1, 6)]
    # The last row of table 3.2 of the handbook would leave 8x8: pooling is 2x2 there too.
    assert maps == [(112, 112, 64), (56, 56, 128), (28, 28, 256), (14, 14, 512), (7, 7, 512)]


def test_vgg16_has_the_operations_of_the_handbook(symbolic):
    model = symbolic("vgg16", (224, 224, 3), 1000)
    assert macs.total(model) == 15_470_264_320
    assert round(2 * macs.total(model) / 1e9, 1) == 30.9  # Chapter 4: 30.9 billion.


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_gives_the_outputs_of_keras_applications(name):
    oracle = perturb(
        getattr(keras.applications, name.upper())(
            weights=None, input_shape=(32, 33, 3), classes=7, classifier_activation=None
        )
    )
    model = models.build(name, (32, 33, 3), 7)
    for layer in model.layers:
        if layer.weights:
            theirs = oracle.get_layer({"logits": "predictions"}.get(layer.name, layer.name))
            layer.set_weights(theirs.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 32, 33, 3)).astype("float32")
    want = np.asarray(oracle(x, training=False))
    np.testing.assert_allclose(model(x, training=False), want, rtol=1e-4, atol=1e-5 * want.std())
