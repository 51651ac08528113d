import math

import keras
import numpy as np
import pytest

from cnnkit import models
from tests.contracts.parts import perturb
from tests.specs import Spec

SPECS = (
    Spec(
        "model",
        "highway10",
        lambda: models.build("highway10", (8, 8, 3), 5, width=0.5, gate_bias=-1.0),
        input_shape=(8, 8, 3),
    ),
)


@pytest.mark.parametrize(("width", "thousands"), [(1, 39), (2, 151)])
def test_parameters_of_the_paper(width, thousands, symbolic):
    model = symbolic("highway10", (28, 28, 1), 10, width=width)
    assert round(sum(math.prod(v.shape) for v in model.weights) / 1e3) == thousands  # table 1


def test_closed_gates_leave_one_convolution():
    model = perturb(models.build("highway10", (16, 16, 1), 10))
    for i in range(2, 10):
        gate = model.get_layer(f"highway{i}_gate")
        gate.set_weights([0 * gate.get_weights()[0], np.full(16, -200.0, "float32")])
    probe = keras.Model(
        model.input, [model.get_layer("conv1").output, model.get_layer("flatten").output]
    )
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype("float32")
    first, last = (np.asarray(y) for y in probe(x, training=False))
    pooled = first.reshape(2, 2, 8, 2, 8, 16).max((2, 4))
    np.testing.assert_array_equal(last, pooled.reshape(2, -1))
