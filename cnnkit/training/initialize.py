"""Where a training starts: the weights of a fresh network, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import keras
import numpy as np

from cnnkit import registry
from cnnkit.training import data_dependent
from cnnkit.training.recipe import Init

_scaling = keras.initializers.VarianceScaling
# Name -> what makes an initializer from a seed. Of Wei 2017, section 7.2: the variance is 1 / n or
# 2 / n; uniform numbers lie within sqrt(3 / n) or sqrt(6 / n). `xavier` has n inputs, as printed
# there, and `glorot` the mean of inputs and outputs. None of the normal ones is cut off, as Keras'
# own by the same names are.
RANDOM: dict[Init, Callable[..., keras.initializers.Initializer]] = {
    "xavier-normal": partial(_scaling, 1.0, "fan_in", "untruncated_normal"),
    "xavier-uniform": partial(_scaling, 1.0, "fan_in", "uniform"),
    "glorot-normal": partial(_scaling, 1.0, "fan_avg", "untruncated_normal"),
    "glorot-uniform": partial(_scaling, 1.0, "fan_avg", "uniform"),
    "he-normal": partial(_scaling, 2.0, "fan_in", "untruncated_normal"),
    "he-uniform": partial(_scaling, 2.0, "fan_in", "uniform"),
    "zeros": lambda _: keras.initializers.Zeros(),  # shows that nothing is learned from them
}
# Name -> start of the data-dependent initialization.
FROM_DATA: dict[Init, str] = {"data": "random", "data-pca": "pca", "data-kmeans": "kmeans"}


def initialize(model: keras.Model, init: Init, pictures: np.ndarray, seed: int = 0) -> None:
    """Gives the kernels of `model` new values and its biases zeros, in place.

    Args:
        model: Functional, from pictures to logits or probabilities.
        init: "default" leaves what the layers themselves chose; else of `RANDOM` or `FROM_DATA`.
        pictures: Of the training split, `(n, height, width, channels)`; for `FROM_DATA` alone.
        seed: Of the draws.

    Raises:
        UsageError: If there is no such initialization.
    """
    registry.known("initialization", init, ["default", *RANDOM, *FROM_DATA])
    if init in RANDOM:
        _fill(model, RANDOM[init](keras.random.SeedGenerator(seed)))
    elif init in FROM_DATA:
        data_dependent.initialize(model, pictures, start=FROM_DATA[init], seed=seed)


def _fill(model: keras.Model, initializer: keras.initializers.Initializer) -> None:
    for variable in model.trainable_variables:
        if variable.name.endswith("kernel"):
            variable.assign(initializer(variable.shape, dtype=variable.dtype))
        elif variable.name == "bias":
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
