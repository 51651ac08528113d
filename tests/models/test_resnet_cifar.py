import keras
import numpy as np
import pytest

from cnnkit import models
from tests.contracts.parts import perturb
from tests.specs import Spec


def spec(name):
    return Spec(
        "model", name, lambda: models.build(name, (9, 9, 3), 5, width=0.5), input_shape=(9, 9, 3)
    )


SPECS = tuple(spec(name) for name in ("resnet8", "resnet14", "resnet20"))


def block(channels_in, channels, projected=False):
    weights = 9 * channels_in * channels + 9 * channels**2 + 4 * channels
    return weights + projected * (channels_in * channels + 2 * channels)


@pytest.mark.parametrize(("name", "n"), [("resnet8", 1), ("resnet14", 2), ("resnet20", 3)])
def test_depth_and_parameters_on_cifar(name, n):
    model = models.build(name, (32, 32, 3), 10)
    weighted = [x for x in model.layers if isinstance(x, keras.layers.Conv2D | keras.layers.Dense)]
    assert len([x for x in weighted if "shortcut" not in x.name]) == 6 * n + 2
    stem, logits = 9 * 3 * 16 + 2 * 16, 64 * 10 + 10
    first = block(16, 16) + block(16, 32, projected=True) + block(32, 64, projected=True)
    others = (n - 1) * (block(16, 16) + block(32, 32) + block(64, 64))
    trainable = sum(v.size for v in (np.asarray(v) for v in model.trainable_weights))
    assert trainable == stem + first + others + logits


def test_resnet20_has_the_size_of_the_paper():
    model = models.build("resnet20", (32, 32, 3), 10)
    assert round(model.count_params() / 1e6, 2) == 0.27  # table 6
    shapes = [model.get_layer(f"stage{i}_block3_relu").output.shape[1:] for i in (1, 2, 3)]
    assert shapes == [(32, 32, 16), (16, 16, 32), (8, 8, 64)]  # section 4.2


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


def test_projection_and_strides_match_the_formula():
    model = perturb(models.build("resnet8", (9, 9, 3), 10))
    y = {
        name: model.get_layer(f"stage2_block1_{name}").output
        for name in ("2_bn", "shortcut_bn", "relu")
    }
    before = model.get_layer("stage1_block1_relu").output
    probe = keras.Model(model.input, [before, y["2_bn"], y["shortcut_bn"], y["relu"]])
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype("float32")
    before, residual, shortcut, after = (np.asarray(v) for v in probe(x, training=False))
    kernel = model.get_layer("stage2_block1_shortcut_conv").get_weights()[0][0, 0]
    gamma, beta, mean, variance = model.get_layer("stage2_block1_shortcut_bn").get_weights()
    projected = (before[:, ::2, ::2] @ kernel - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    np.testing.assert_allclose(shortcut, projected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after, np.maximum(residual + shortcut, 0), rtol=1e-6)
