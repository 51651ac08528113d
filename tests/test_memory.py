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


@pytest.mark.parametrize("alone", [True, False])
def test_no_crash(alone):
    code = START.format(alone=alone) + "".join(CODE)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | CHECKED
    )
    assert done.returncode == 0, done.stderr[-300:]
