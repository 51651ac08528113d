"""What holds for every constraint, initializer and schedule."""

import keras
import numpy as np
import pytest

from tests.specs import each

SHAPES = [(7, 5), (3, 3, 4, 6), (1, 1, 2, 2)]


def values(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each("constraint")
def test_constraint_keeps_shape_and_dtype_and_does_nothing_twice(spec, shape):
    constraint = spec.make()
    for dtype in ("float32", "float16", "float64"):
        w = keras.ops.array(3 * np.random.default_rng(0).normal(size=shape), dtype)
        once = constraint(w)
        assert tuple(once.shape) == shape
        assert keras.backend.standardize_dtype(once.dtype) == dtype
        assert np.isfinite(values(once)).all()
        np.testing.assert_allclose(
            values(constraint(once)), values(once), rtol=1e-5 if dtype != "float16" else 1e-2
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each("initializer")
def test_initializer_gives_shape_dtype_and_the_same_values_for_the_same_seed(spec, shape):
    for dtype in ("float32", "float16", "bfloat16"):
        first, second = (spec.make()(shape, dtype=dtype) for _ in range(2))
        assert tuple(first.shape) == shape
        assert keras.backend.standardize_dtype(first.dtype) == dtype
        first, second = (values(keras.ops.cast(w, "float32")) for w in (first, second))
        assert np.isfinite(first).all()
        np.testing.assert_array_equal(first, second)


@each("schedule")
def test_schedule_is_a_finite_rate_at_every_step(spec):
    schedule = spec.make()
    for step in (*range(30), 10**3, 10**6):
        rate = values(schedule(step))
        assert rate.shape == ()
        assert np.isfinite(rate), step
        assert rate >= 0, step


@each("schedule")
def test_schedule_is_what_an_optimizer_steps_by(spec):
    schedule = spec.make()
    w = keras.Variable([0.0])
    optimizer = keras.optimizers.SGD(schedule)
    optimizer.build([w])
    for step in range(12):
        before = values(w)
        optimizer.apply([keras.ops.array([-1.0])])
        np.testing.assert_allclose(
            values(w) - before, [float(schedule(step))], rtol=1e-4, atol=1e-7
        )


@each("schedule")
def test_schedule_trains_the_same_on_jax(spec, jax, tmp_path):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(2, name="dense")
    model = keras.Sequential([keras.Input((3,)), dense])
    model.compile(keras.optimizers.SGD(spec.make()), "mse")
    model.save(tmp_path / "part.keras")
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    found = jax.run(tmp_path / "part.keras", x, steps=6)
    model.fit(x, np.zeros((8, 2)), batch_size=8, epochs=6, shuffle=False, verbose=0)
    np.testing.assert_allclose(found, values(model(x)), rtol=1e-4, atol=1e-5)
