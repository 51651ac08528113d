import numpy as np

from cnnkit import models
from tests.contracts.parts import perturb
from tests.specs import Spec

SPECS = (Spec("model", "nin", lambda: models.build("nin", (9, 9, 3), 5, width=0.1), (9, 9, 3)),)


def test_the_maps_of_the_classes_are_the_classifier():
    model = perturb(models.build("nin", (32, 32, 3), 10, width=0.1))
    assert model.get_layer("maps").output.shape[1:] == (8, 8, 10)
    assert "logits" in [layer.name for layer in model.layers if not layer.weights]
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    before = np.asarray(model(x, training=False))
    kernel, bias = model.get_layer("maps").get_weights()
    model.get_layer("maps").set_weights([kernel, bias + np.arange(10)])
    np.testing.assert_allclose(model(x, training=False), before + np.arange(10), atol=1e-5)


def test_every_mlpconv_has_three_layers(symbolic):
    model = symbolic("nin", (32, 32, 3), 10)
    names = [layer.name for layer in model.layers if layer.weights]
    first = ["block1_conv", "block1_mlp1", "block1_mlp2", "block2_conv", "block2_mlp1"]
    assert names == [*first, "block2_mlp2", "block3_conv", "block3_mlp1", "maps"]
    filters = [model.get_layer(name).filters for name in names]
    assert filters == [192, 160, 96, 192, 192, 192, 192, 192, 10]
