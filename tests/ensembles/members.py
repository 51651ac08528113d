"""Small classifiers of 8x8 pictures in three classes, without training."""

import keras
import numpy as np
from keras import layers


def member(seed, end="softmax", shape=(8, 8, 1), classes=3, width=4):
    """Returns one with two convolutions; names of its layers are as any other's."""
    keras.utils.set_random_seed(seed)
    x = image = keras.Input(shape, name="image")
    x = layers.Rescaling(1 / 255, name="pixels")(x)
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="first")(x)
    x = layers.Conv2D(2 * width, 3, name="second")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.Flatten(name="flat")(layers.MaxPooling2D(2, name="pool")(x))
    x = layers.Dense(classes, name="logits")(x)
    if end == "softmax":
        x = layers.Softmax(name="probabilities")(x)
    return keras.Model(image, x, name="member")


def pictures(n=40, shape=(8, 8, 1)):
    return np.random.default_rng(0).integers(0, 256, (n, *shape)).astype("float32")


def softmax(z):
    powers = np.exp(z - z.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
