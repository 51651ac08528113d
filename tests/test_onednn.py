"""Gradients that stay out of oneDNN's faulty kernels."""

import contextlib
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from cnnkit.analysis.gradients import gradient
from cnnkit.onednn import unit_strides

PLAIN = (keras.layers.Conv1D.convolution_op, keras.layers.Conv2D.convolution_op)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Conv1D(3, 1, strides=2), (2, 7, 4)),
        (layers.Conv2D(3, 1, strides=2, padding="same"), (2, 7, 6, 4)),
        (layers.Conv2D(3, 1, strides=2, padding="valid"), (2, 7, 6, 4)),
        (layers.Conv2D(3, 1, strides=3, padding="same", groups=1, use_bias=False), (1, 8, 8, 2)),
        (layers.Conv2D(3, 1, strides=1), (2, 5, 5, 4)),
        (layers.Conv2D(3, 3, strides=2, padding="same"), (2, 5, 5, 4)),
    ],
)
def test_the_same_is_computed(layer, shape):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    want = layer(x)
    with unit_strides():
        got = layer(x)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert got.shape == want.shape


def _ops(call):
    graph = tf.function(call).get_concrete_function(tf.TensorSpec((2, 6, 6, 4))).graph
    return {op.type: op for op in graph.get_operations()}


def test_no_strided_1x1_convolution_is_differentiated():
    net = keras.Sequential([keras.Input((6, 6, 4)), layers.Conv2D(3, 1, strides=2)])
    nested = keras.Sequential([keras.Input((6, 6, 4)), net])

    def slope(x):
        return gradient(lambda v: tf.reduce_sum(nested(v) ** 2), x)

    found = _ops(slope)
    assert list(found["Conv2DBackpropInput"].get_attr("strides")) == [1, 1, 1, 1]
    assert "StridedSlice" not in _ops(nested)  # what is exported has no slices


def test_layers_are_given_back():
    with contextlib.suppress(RuntimeError), unit_strides():
        assert keras.layers.Conv2D.convolution_op is not PLAIN[1]
        raise RuntimeError
    assert (keras.layers.Conv1D.convolution_op, keras.layers.Conv2D.convolution_op) == PLAIN


@pytest.mark.parametrize(
    ("given", "code", "limit"),
    [
        (None, "import cnnkit", "AVX"),
        (None, "import cnnkit.training.fit", "AVX2"),
        ("AVX", "import cnnkit.training.fit", "AVX"),
        ("ALL", "import cnnkit.training.fit", "ALL"),
    ],
)
def test_what_a_user_has_set_stays(given, code, limit):
    kept = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import os; print(os.environ['ONEDNN_MAX_CPU_ISA'])"],
        env=kept | ({"ONEDNN_MAX_CPU_ISA": given} if given else {}),
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [limit], done.stderr
