import keras
import numpy as np
import pytest

from cnnkit.regularizers import GroupLasso
from tests.specs import Spec

SPECS = (
    Spec(
        "regularizer",
        "GroupLasso",
        lambda: GroupLasso(0.005, channels=0.0025, shapes=0.001, depth=0.02),
    ),
)
KINDS = {"filters": (0, 1, 2), "channels": (0, 1, 3), "shapes": (3,), "depth": (0, 1, 2, 3)}


def kernel():
    return np.random.default_rng(0).normal(size=(3, 2, 5, 4)).astype("float32")


@pytest.mark.parametrize("kind", KINDS)
def test_matches_the_formula(kind):
    w = kernel()
    norms = np.sqrt(np.square(w).sum(KINDS[kind]))
    want = 0.3 * np.sqrt(w.size / norms.size) * norms.sum()
    only = dict.fromkeys(KINDS, 0.0) | {kind: 0.3}
    np.testing.assert_allclose(GroupLasso(**only)(w), want, rtol=1e-5)


def test_kinds_add_up():
    w = kernel()
    parts = [GroupLasso(**(dict.fromkeys(KINDS, 0.0) | {kind: 0.3})) for kind in KINDS]
    whole = GroupLasso(**dict.fromkeys(KINDS, 0.3))
    np.testing.assert_allclose(whole(w), sum(float(part(w)) for part in parts), rtol=1e-5)


def test_by_hand():
    w = np.array([[3.0, 0.0], [4.0, 1.0]])
    np.testing.assert_allclose(GroupLasso(2.0)(w), 2 * np.sqrt(2) * (5 + 1), rtol=1e-6)
    sideways = GroupLasso(0.0, channels=2.0)
    np.testing.assert_allclose(sideways(w), 2 * np.sqrt(2) * (3 + np.sqrt(17)), rtol=1e-6)


def test_scales_with_the_weights_and_is_zero_at_zero():
    w, lasso = kernel(), GroupLasso(1.0, channels=1.0)
    np.testing.assert_allclose(lasso(-3 * w), 3 * lasso(w), rtol=1e-5)
    assert float(lasso(0 * w)) == 0


def test_a_zero_group_has_no_gradient():
    import tensorflow as tf

    w = tf.constant(kernel() * [1, 0, 1, 1], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(w)
        value = GroupLasso(1.0)(w)
    gradient = tape.gradient(value, w).numpy()
    assert np.isfinite(gradient).all()
    assert not gradient[..., 1].any()
    # Elsewhere it is a pull of the same length on every group.
    np.testing.assert_allclose(
        np.sqrt(np.square(gradient).sum((0, 1, 2)))[[0, 2, 3]], 30**0.5, rtol=1e-5
    )


def test_training_makes_whole_filters_small():
    """Two inputs decide; a layer of eight filters needs few of them."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 6)).astype("float32")
    y = x[:, :1] - x[:, 1:2]
    norms = {}
    for strength in (0.0, 0.01):
        wide = keras.layers.Dense(8, kernel_regularizer=GroupLasso(strength))
        model = keras.Sequential([keras.Input((6,)), wide, keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.02), "mse")
        model.fit(x, y, epochs=40, verbose=0)
        norms[strength] = np.linalg.norm(wide.kernel, axis=0)
        error = model.evaluate(x, y, verbose=0) if not strength else None
        assert error is None or error < 0.01
    assert (norms[0.0] > 0.1).all()
    assert (norms[0.01] < 0.05).sum() >= 5


@pytest.mark.parametrize("kind", KINDS)
def test_bad_strength(kind):
    with pytest.raises(ValueError, match=rf"`{kind}` of GroupLasso must be in \[0.0, inf\)"):
        GroupLasso(**{kind: -1.0})


def test_a_bias_is_refused():
    with pytest.raises(ValueError, match="needs a kernel of two axes"):
        GroupLasso()(np.zeros(4))
