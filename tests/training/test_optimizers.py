"""Keras' optimizers with our constants are the book's, eq. 11.1 to 11.17, step by step."""

import keras
import numpy as np
import pytest

from cnnkit.training.fit import OPTIMIZERS
from cnnkit.training.momentum import RampedSGD

STEPS = 5
START = np.array([0.8, -1.5, 0.3])


def gradient(w):
    """Of `w^4 / 4 + w^2 + w`, whose size changes on the way."""
    return w**3 + 2 * w + 1


def plain_sgd(rate):
    w = START
    for _ in range(STEPS):
        w = w - rate * gradient(w)  # 11.1
        yield w


def momentum(rate, mu=0.9):
    w, v = START, 0
    for _ in range(STEPS):
        v = mu * v - rate * gradient(w)  # 11.2
        w = w + v  # 11.3
        yield w


def nesterov(rate, mu=0.9):
    """Yields the places ahead, which is where Keras keeps its weights."""
    w, v = START, 0
    for _ in range(STEPS):
        ahead = w + mu * v  # 11.4
        v = mu * v - rate * gradient(ahead)  # 11.5
        w = w + v  # 11.6
        yield w + mu * v


def adagrad(rate, epsilon=1e-6):
    w, squares = START, 0
    for _ in range(STEPS):
        g = gradient(w)
        squares = squares + g**2
        w = w - rate / np.sqrt(squares + epsilon) * g  # 11.7
        yield w


def adadelta(rate, rho=0.95, epsilon=1e-6):
    w, r, s = START, 0, 0
    for _ in range(STEPS):
        g = gradient(w)
        r = rho * r + (1 - rho) * g**2  # 11.8
        eta = np.sqrt(s + epsilon) / np.sqrt(r + epsilon)  # 11.9
        s = rho * s + (1 - rho) * (eta * g) ** 2  # 11.10
        w = w - rate * eta * g
        yield w


def rmsprop(rate, rho=0.9, epsilon=1e-6):
    w, r = START, 0
    for _ in range(STEPS):
        g = gradient(w)
        r = rho * r + (1 - rho) * g**2  # 11.11
        w = w - rate / np.sqrt(r + epsilon) * g  # 11.12
        yield w


def adam(rate, beta1=0.9, beta2=0.999, epsilon=1e-8):
    w, m, v = START, 0, 0
    for t in range(1, STEPS + 1):
        g = gradient(w)
        m = beta1 * m + (1 - beta1) * g  # 11.13
        v = beta2 * v + (1 - beta2) * g**2  # 11.14
        w = w - rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)  # 11.15-17
        yield w


def descend(optimizer):
    w = keras.Variable(START, dtype="float64")
    optimizer.build([w])
    for _ in range(STEPS):
        optimizer.apply([gradient(keras.ops.convert_to_tensor(w))])
        yield np.array(w)


@pytest.mark.parametrize(
    ("name", "formula", "rate"),
    [
        ("plain-sgd", plain_sgd, 0.01),
        ("momentum", momentum, 0.01),
        ("sgd", nesterov, 0.01),
        ("adagrad", adagrad, 0.01),
        ("adadelta", adadelta, 1.0),
        ("rmsprop", rmsprop, 1.0),
        ("adam", adam, 0.001),
    ],
)
def test_is_the_formula_of_the_book(name, formula, rate):
    found = list(descend(OPTIMIZERS[name](learning_rate=rate)))
    np.testing.assert_allclose(found, list(formula(rate)), rtol=1e-6, atol=1e-6)
    assert not np.allclose(found[-1], START, atol=1e-3)


def test_adam_has_the_rates_of_the_book():
    config = OPTIMIZERS["adam"]().get_config()
    assert [config[k] for k in ("beta_1", "beta_2", "epsilon")] == [0.9, 0.999, 1e-8]
    assert config["learning_rate"] == pytest.approx(0.001)


def test_ramped_momentum_rises_from_one_half_and_stays():
    ramped = RampedSGD(0.01, start=0.5, end=0.99, steps=4)
    found = [float(ramped.momentum_at(t)) for t in (0, 2, 4, 9)]
    np.testing.assert_allclose(found, [0.5, 0.745, 0.99, 0.99], rtol=1e-6)
    w, v, want = START, 0, []
    for t in range(STEPS):
        v = (0.5 + 0.49 * min(1, t / 4)) * v - 0.01 * gradient(w)
        w = w + v
        want.append(w)
    np.testing.assert_allclose(list(descend(ramped)), want, rtol=1e-6)


def test_a_flat_ramp_is_momentum():
    flat = RampedSGD(0.01, start=0.9, end=0.9, steps=3)
    np.testing.assert_allclose(list(descend(flat)), list(momentum(0.01)), rtol=1e-6)


def test_ramped_momentum_goes_on_after_loading(tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")

    def train(model, epochs):
        model.fit(x, x[:, :2], batch_size=8, epochs=epochs, shuffle=False, verbose=0)

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(RampedSGD(0.05, end=0.99, steps=8), "mse")
    train(model, 3)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    train(model, 6)
    train(loaded, 6)
    np.testing.assert_array_equal(model.get_weights()[0], loaded.get_weights()[0])


def test_bad_ramp():
    with pytest.raises(ValueError, match=r"`end` of RampedSGD must be in \[0\.0, 1\.0\]"):
        RampedSGD(end=1.5)
    with pytest.raises(ValueError, match=r"`steps` of RampedSGD must be an integer >= 1"):
        RampedSGD(steps=0)
