"""Inputs and models for the contracts."""

import keras
import numpy as np


def batch(spec, n=2, dtype="float32"):
    return np.random.default_rng(0).uniform(-1, 1, (n, *spec.input_shape)).astype(dtype)


def predictions(spec, dtype="float32"):
    """Returns `y_pred` of the two examples of a loss."""
    return np.asarray(spec.predict(batch(spec, dtype="float64")), dtype)


def as_model(spec):
    part = spec.make()
    if spec.kind != "model":
        part = keras.layers.Activation(part) if spec.kind == "activation" else part
        x = keras.Input(spec.input_shape, name="image")
        part = keras.Model(x, part(x))
    return perturb(part)


def perturb(model, seed=0):
    """Fills every weight with seeded values that no test can pass by luck.

    Fresh weights hide bugs: zero biases, and batch statistics of 0 and 1, make
    batch-norm folding look right; a ReLU that is dead on the calibration data
    gives a zero range, which LiteRT's int8 kernels refuse.
    """
    rng = np.random.default_rng(seed)
    for v in model.weights:
        if v.name in ("gamma", "moving_variance"):
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        elif v.name in ("beta", "bias", "moving_mean"):
            v.assign(rng.uniform(0.05, 0.2, v.shape))
        else:
            v.assign(v + rng.normal(scale=0.02, size=v.shape))
    return model
