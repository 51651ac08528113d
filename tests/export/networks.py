"""Small networks and pictures for the export tests."""

import keras
import numpy as np
from keras import layers

from tests.contracts.parts import perturb

SHAPE = (16, 16, 4)
LABELS = ["ant", "bee", "cat", "dog", "elk"]


def pictures(n, shape=SHAPE, seed=0):
    x = np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype("uint8")
    x[0, 0, 0, 0], x[0, 0, 1, 0] = 0, 255
    return x


def everything():
    """Convolution + BN + ReLU, depthwise, grouped, residual, concatenation, SE gate.

    No ReLU of it is zero for every picture.
    """
    keras.utils.set_random_seed(1)
    x = image = keras.Input(SHAPE, name="image")
    x = layers.Rescaling([1 / 64, 1 / 60, 1 / 70, 1 / 64], [-2.0, -1.9, -2.1, 0], name="pixels")(x)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = skip = layers.ReLU(name="stem_relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Conv2D(8, 3, groups=4, padding="same", activation="relu", name="grouped")(x)
    x = layers.Add(name="residual")([x, skip])
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    gate = layers.Conv2D(2, 1, activation="relu", name="reduce")(gate)
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(gate)
    x = layers.Multiply(name="gated")([x, gate])
    x = layers.Concatenate(name="both")([x, skip])
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(len(LABELS), name="logits")(x)
    x = layers.Softmax(name="probabilities")(x)
    return perturb(keras.Model(image, x, name="everything"))


def tiny(dead=False, channels=4):
    """Two convolutions; `dead` makes the second ReLU zero for every picture."""
    x = image = keras.Input((8, 8, channels), name="image")
    x = layers.Rescaling(1 / 255, name="pixels")(x)
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(x)
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="second")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dense(3, name="logits")(x)
    model = perturb(keras.Model(image, layers.Softmax(name="probabilities")(x), name="tiny"))
    if dead:
        kernel, bias = model.get_layer("second").get_weights()
        model.get_layer("second").set_weights([kernel, bias - 50])
    return model


def sqnr_db(want, got):
    noise = np.square(want - got).sum()
    # What a runtime does not compute in int8 may be exact.
    return 10 * np.log10(np.square(want).sum() / noise) if noise else np.inf
