import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnkit.losses import TukeyBiweight
from tests.specs import Spec

TARGETS = np.array([[1.0, -2.0, 0.5], [0.0, 30.0, -1.0]], "float32")
NO_LABEL = "regression has no classes; test_matches_the_formula holds instead"
SPECS = (
    Spec(
        "loss",
        "TukeyBiweight",
        lambda: TukeyBiweight(c=3.0, scale=1.5),
        input_shape=(3,),
        targets=TARGETS,
        truth=TARGETS,
        exempt={
            "test_a_soft_label_is_the_expectation_of_hard_ones": NO_LABEL,
            "test_numbers_and_one_hot_labels_are_the_same": NO_LABEL,
        },
    ),
)


def rho(r, c=4.6851):
    return np.where(np.abs(r) <= c, c**2 / 6 * (1 - (1 - (r / c) ** 2) ** 3), c**2 / 6)


def test_matches_the_formula():
    """9.2: the branch is for each residual, then come the sum over outputs and the mean."""
    y, p = TARGETS, np.zeros_like(TARGETS)
    want = rho(y / 2.0).sum(1)
    np.testing.assert_allclose(TukeyBiweight(scale=2.0, reduction="none")(y, p), want, rtol=1e-5)
    np.testing.assert_allclose(TukeyBiweight(scale=2.0)(y, p), want.mean(), rtol=1e-5)


def test_scale_is_the_median_absolute_deviation_of_each_output():
    r = np.random.default_rng(0).normal(3, [1, 20], (51, 2)).astype("float32")
    deviation = 1.4826 * np.median(np.abs(r - np.median(r, 0)), 0)
    got = TukeyBiweight(reduction="none")(r, np.zeros_like(r))
    np.testing.assert_allclose(got, rho(r / deviation).sum(1), rtol=1e-4)


def test_scale_has_no_gradient():
    r = np.random.default_rng(0).normal(0, 2, (51, 1)).astype("float32")
    deviation = float(1.4826 * np.median(np.abs(r - np.median(r))))

    def slope(loss):
        p = tf.zeros((51, 1))
        with tf.GradientTape() as tape:
            tape.watch(p)
            value = loss(r, p)
        return tape.gradient(value, p).numpy()

    np.testing.assert_allclose(
        slope(TukeyBiweight()), slope(TukeyBiweight(scale=deviation)), rtol=1e-4, atol=1e-7
    )


def test_residuals_without_deviation_are_not_scaled():
    y = np.array([[0.0], [0.0], [0.0], [2.0]], "float32")
    got = TukeyBiweight(reduction="none")(y, np.zeros_like(y))
    np.testing.assert_allclose(got, rho(y[:, 0]), rtol=1e-6)


def test_is_half_the_square_near_zero_and_flat_far_away():
    near = np.array([[0.01]], "float32")
    np.testing.assert_allclose(TukeyBiweight(scale=1.0)(near, 0 * near), 0.01**2 / 2, rtol=1e-2)
    far = tf.constant([[100.0]])
    with tf.GradientTape() as tape:
        tape.watch(far)
        loss = TukeyBiweight(scale=1.0)([[0.0]], far)
    assert tape.gradient(loss, far).numpy() == 0


def test_outliers_do_not_move_a_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 1)).astype("float32")
    y = 2 * x + rng.normal(0, 0.1, x.shape)
    y[:40] += 20
    slopes = {}
    for loss in ("mse", TukeyBiweight()):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.05), loss)
        # One epoch for all: each takes long to start.
        x_again, y_again = (
            np.tile(x, (300, 1)),
            np.tile(y, (300, 1)),
        )
        model.fit(x_again, y_again, batch_size=200, shuffle=False, verbose=0)
        slopes[loss if loss == "mse" else "tukey"] = float(model.layers[-1].bias[0])
    assert slopes["mse"] > 3
    assert abs(slopes["tukey"]) < 0.05


@pytest.mark.parametrize("name", ["c", "scale"])
def test_bad_arguments(name):
    with pytest.raises(ValueError, match=rf"`{name}` of TukeyBiweight must be in \(0.0, inf\)"):
        TukeyBiweight(**{name: 0.0})
