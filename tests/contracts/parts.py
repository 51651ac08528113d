"""Inputs and models for the contracts."""

import keras
import numpy as np

from cnnkit.analysis.functional import graph_of
from cnnkit.analysis.functional import nodes


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


_SHARED = {}


def shared_model(spec):
    """Returns what `as_model` made of `spec` the first time, for contracts that only read it."""
    key = spec.kind, spec.name
    if key not in _SHARED:
        _SHARED[key] = as_model(spec)
    return _SHARED[key]


def least_db(model):
    """Returns the contract of int8: 25 dB, less what more than 16 layers in a row add to noise.

    A weight of 7 bits, as ONNX files have, is off by up to 1/126 of the largest of its filter.
    Of normal numbers that is about 3 deviations: the noise of a layer has 3² / (12 · 63²) of the
    power of its output, -37 dB. The noise of each layer goes through all that follow, as their
    signal does, and is independent of theirs: of 16 layers it is -25 dB, of `n` it is
    `10 log10(n / 16)` more.
    """
    depths = {}
    for node in nodes(graph_of(model)):
        before = max((depths[id(tensor)] for tensor in node.input_tensors), default=0)
        here = before + hasattr(node.operation, "kernel")
        depths.update((id(tensor), here) for tensor in node.output_tensors)
    return 25 - 10 * np.log10(max(1, max(depths.values()) / 16))


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
