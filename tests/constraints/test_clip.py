import keras
import numpy as np
import pytest

from cnnkit.constraints import Clip
from tests.specs import Spec

SPECS = (Spec("constraint", "Clip", lambda: Clip(-0.5, 0.25)),)


def test_matches_the_formula():
    w = np.random.default_rng(0).normal(size=(3, 3, 5, 4)).astype("float32")
    np.testing.assert_array_equal(Clip(-0.5, 0.25)(w), np.minimum(np.maximum(w, -0.5), 0.25))


def test_training_cannot_leave_the_box():
    dense = keras.layers.Dense(1, kernel_constraint=Clip(-0.1, 0.1), use_bias=False)
    model = keras.Sequential([keras.Input((3,)), dense])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    model.fit(x, x @ [[3.0], [-3.0], [0.0]], epochs=20, verbose=0)
    np.testing.assert_allclose(np.ravel(dense.kernel)[:2], [0.1, -0.1])


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`high` of Clip must be in \(1\.0, inf\)"):
        Clip(1.0, 1.0)
    with pytest.raises(ValueError, match=r"`low` of Clip must be in \(-inf, inf\)"):
        Clip(float("nan"))
