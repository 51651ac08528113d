import math

import keras
import numpy as np
import pytest

from cnnkit import models
from tests.contracts.parts import perturb
from tests.specs import Spec


def spec(name, shape=(8, 8, 3), width=0.25):
    deep = name not in ("resnet8", "plain20")
    return Spec("model", name, lambda: models.build(name, shape, 5, width=width), shape, deep=deep)


DEPTHS = {f"resnet{6 * n + 2}": n for n in (1, 2, 3, 5, 7, 9, 18)}
PLAIN = {f"plain{6 * n + 2}": n for n in (3, 5, 7, 9)}
SPECS = (
    *(spec(name, (9, 9, 3), 0.5) for name in ("resnet8", "resnet14", "resnet20")),
    *(spec(name) for name in [*DEPTHS, *PLAIN][3:] if name != "resnet110"),
    spec("resnet110", width=1.0),
)


def block(channels_in, channels, projected=False):
    weights = 9 * channels_in * channels + 9 * channels**2 + 4 * channels
    return weights + projected * (channels_in * channels + 2 * channels)


def trainable(model):
    return sum(math.prod(v.shape) for v in model.trainable_weights)


@pytest.mark.parametrize("shortcut", ["A", "B", "none"])
@pytest.mark.parametrize("name", DEPTHS)
def test_depth_and_parameters_on_cifar(name, shortcut, symbolic):
    n, projected = DEPTHS[name], shortcut == "B"
    model = symbolic(name, (32, 32, 3), 10, shortcut=shortcut)
    weighted = [x for x in model.layers if isinstance(x, keras.layers.Conv2D | keras.layers.Dense)]
    assert len([x for x in weighted if "shortcut" not in x.name]) == 6 * n + 2
    stem, logits = 9 * 3 * 16 + 2 * 16, 64 * 10 + 10
    first = block(16, 16) + block(16, 32, projected) + block(32, 64, projected)
    others = (n - 1) * (block(16, 16) + block(32, 32) + block(64, 64))
    assert trainable(model) == stem + first + others + logits
    assert len([x for x in model.layers if x.name.endswith("_add")]) == 3 * n * (shortcut != "none")


@pytest.mark.parametrize(
    ("name", "millions"),
    list(
        {
            "resnet20": 0.27,
            "resnet32": 0.46,
            "resnet44": 0.66,
            "resnet56": 0.85,
            "resnet110": 1.7,
        }.items()
    ),
)
def test_the_sizes_of_the_paper(name, millions, symbolic):
    digits = 1 if millions > 1 else 2
    params = trainable(symbolic(name, (32, 32, 3), 10, shortcut="A"))
    assert round(params / 1e6, digits) == millions  # table 6


def test_the_maps_of_the_paper(symbolic):
    model = symbolic("resnet20", (32, 32, 3), 10)
    shapes = [model.get_layer(f"stage{i}_block3_relu").output.shape[1:] for i in (1, 2, 3)]
    assert shapes == [(32, 32, 16), (16, 16, 32), (8, 8, 64)]  # section 4.2


@pytest.mark.parametrize("name", PLAIN)
def test_plain_networks_are_the_twins_without_shortcuts(name, symbolic):
    plain = symbolic(name, (32, 32, 3), 10)
    twin = symbolic(name.replace("plain", "resnet"), (32, 32, 3), 10, shortcut="none")
    assert [(w.path, w.shape) for w in plain.weights] == [(w.path, w.shape) for w in twin.weights]
    residual = symbolic(name, (32, 32, 3), 10, shortcut="B")
    assert len(residual.layers) > len(plain.layers)


def test_blocks_without_residual_pass_their_input_on():
    model = perturb(models.build("resnet14", (16, 16, 3), 10))
    for name in ("stage1_block1", "stage1_block2", "stage2_block2"):
        bn = model.get_layer(f"{name}_2_bn")
        bn.gamma.assign(np.zeros(bn.gamma.shape))
        bn.beta.assign(np.zeros(bn.beta.shape))
    names = ("stem_relu", "stage1_block2_relu", "stage2_block1_relu", "stage2_block2_relu")
    probe = keras.Model(model.input, [model.get_layer(name).output for name in names])
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    stem, stage1, halved, stage2 = (np.asarray(y) for y in probe(x, training=False))
    np.testing.assert_array_equal(stem, stage1)
    np.testing.assert_array_equal(halved, stage2)
    assert stem.std() > 0.1
