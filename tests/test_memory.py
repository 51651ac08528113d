"""TensorFlow's CPU kernels must not corrupt memory under what cnnkit trains."""

import subprocess
import sys

import pytest

STRIDED = """
import cnnkit, tensorflow as tf
x = tf.Variable(tf.random.normal([30, 96, 96, 11]))
w = tf.Variable(tf.random.normal([1, 1, 11, 22]))
for _ in range(3):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(tf.nn.conv2d(x, w, 2, "SAME")))
    [g.numpy() for g in tape.gradient(loss, [x, w])]
"""
MATMUL = """
import cnnkit, tensorflow as tf
for _ in range(20):
    tf.linalg.matmul(tf.random.normal([13, 1, 3, 4]), tf.random.normal([4, 16])).numpy()
"""


@pytest.mark.parametrize("code", [STRIDED, MATMUL], ids=["strided", "matmul"])
def test_no_crash(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]
