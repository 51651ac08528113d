"""TensorFlow's CPU kernels must not corrupt memory under what cnnkit trains."""

import os
import subprocess
import sys

import pytest

GRADIENT = """
x = tf.Variable(tf.random.normal([{n}, {size}, {size}, {channels}]))
w = tf.Variable(tf.random.normal([1, 1, {channels}, {filters}]))
for _ in range(20):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(tf.nn.conv2d(x, w, 2, "SAME")))
    [g.numpy() for g in tape.gradient(loss, [x, w])]
"""
# Kernels of oneDNN for AVX-512 write past their memory in each, those for AVX2 in the first two
# when they have one processor.
CODE = (
    GRADIENT.format(n=128, size=14, channels=4, filters=8),
    GRADIENT.format(n=30, size=96, channels=11, filters=22),
    """
for _ in range(20):
    tf.linalg.matmul(tf.random.normal([13, 1, 3, 4]), tf.random.normal([4, 16])).numpy()
""",
)
START = """
import os
if {alone}: os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import cnnkit, tensorflow as tf
"""
# Looks for bytes written past the end of what was allocated; where there is no such library, the
# loader says so and goes on.
CHECKED = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"}


# What `fit` does: with AVX2, and without strides.
TRAINING = """
from cnnkit.analysis.gradients import gradient
import keras, os
assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX2"
for n, size, channels, filters in ((128, 14, 4, 8), (30, 96, 11, 22)):
    conv = keras.layers.Conv2D(filters, 1, strides=2, padding="same")
    x = tf.random.normal([n, size, size, channels])
    conv(x)
    for _ in range(20):
        gradient(lambda v: tf.reduce_sum(tf.square(conv(x))), conv.kernel.value)
        gradient(lambda v: tf.reduce_sum(tf.square(conv(v))), x).numpy()
"""


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("code", ["".join(CODE), TRAINING], ids=["own loop", "training"])
def test_no_crash(code, alone):
    unset = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"}
    done = subprocess.run(
        [sys.executable, "-c", START.format(alone=alone) + code],
        capture_output=True,
        text=True,
        env=unset | CHECKED,
    )
    assert done.returncode == 0, done.stderr[-300:]
