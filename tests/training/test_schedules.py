import math
import typing

import keras
import numpy as np
import pytest

from cnnkit.errors import UsageError
from cnnkit.training import fit as fitting
from cnnkit.training.fit import fit
from cnnkit.training.recipe import Train
from cnnkit.training.recipe import resolve
from cnnkit.training.schedules import SCHEDULES
from cnnkit.training.schedules import learning_rates
from cnnkit.training.schedules import parse
from tests.training.pictures import Pictures


def rates(schedule, epochs, epoch_steps, warmup_epochs=0, lr=0.1):
    rate = learning_rates(lr, schedule, epochs, epoch_steps, warmup_epochs)
    return np.array([float(rate(step)) for step in range(epochs * epoch_steps)])


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("cosine", 0, [0.1, 0.05 * (1 + math.cos(math.pi / 4)), 0.05, 0.0]),
        ("cosine", 1, [0.0, 0.1, 0.05 * (1 + math.cos(math.pi / 3)), 0.0]),
        ("constant", 0, [0.1, 0.1, 0.1, 0.1]),
        ("constant", 2, [0.0, 0.05, 0.1, 0.1]),
        ("step:every=2,factor=0.1", 0, [0.1, 0.1, 0.01, 0.001]),
        ("step:every=2", 1, [0.0, 0.1, 0.1, 0.05]),
        ("exponential:end=0.125", 0, [0.1, 0.05, 0.025, 0.00625]),
        ("inverse:k=1", 0, [0.1, 0.05, 0.1 / 3, 0.02]),
        ("cyclic:cycles=2", 0, [0.1, 0.05, 0.1, 0.1]),
    ],
)
def test_learning_rate_at_four_steps(schedule, warmup, expected):
    rate = learning_rates(0.1, schedule, 4, 20, warmup)
    np.testing.assert_allclose([float(rate(t)) for t in (0, 20, 40, 80)], expected, atol=1e-7)


def test_exponential_is_the_logspace_of_20_epochs():
    found = rates("exponential:end=1e-3", 20, 3, lr=1e-2)
    np.testing.assert_allclose(found, np.repeat(np.logspace(-2, -5, 20), 3), rtol=1e-5)


def test_step_halves_every_five_epochs_and_inverse_is_1_over_t():
    np.testing.assert_allclose(
        rates("step", 12, 2), np.repeat([0.1] * 5 + [0.05] * 5 + [0.025] * 2, 2), rtol=1e-6
    )
    epoch = np.repeat(np.arange(12), 2)
    np.testing.assert_allclose(rates("inverse:k=0.5", 12, 2), 0.1 / (1 + 0.5 * epoch), rtol=1e-6)


@pytest.mark.parametrize("cycles", [1, 3, 5])
def test_cyclic_is_equation_13_1(cycles):
    """Also where the cycles do not divide the steps."""
    total = 10 * 7
    length = math.ceil(total / cycles)
    t = np.arange(1, total + 1)
    want = 0.1 / 2 * (np.cos(np.pi * np.mod(t - 1, length) / length) + 1)
    np.testing.assert_allclose(rates(f"cyclic:cycles={cycles}", 10, 7), want, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_positive_at_first_and_never_above_the_highest(schedule):
    for epochs, epoch_steps, warmup in ((1, 1, 0), (1, 3, 1), (4, 5, 2), (3, 2, 9)):
        found = rates(schedule, epochs, epoch_steps, warmup)
        assert np.isfinite(found).all()
        assert found.min() >= 0
        assert found.max() <= 0.1 + 1e-7
        assert warmup or schedule == "rising" or found[0] == pytest.approx(0.1)


def test_options_have_defaults_and_checks():
    assert parse("step:every=10") == ("step", {"every": 10, "factor": 0.5})
    with pytest.raises(UsageError, match=r"Unknown option of schedule 'step' 'evry'.*every"):
        parse("step:evry=2")
    with pytest.raises(UsageError, match=r"Unknown option of schedule 'cosine' 'k'. There is none"):
        parse("cosine:k=1")
    for text in (
        "step:every=2.5",
        "step:factor=2",
        "inverse:k=x",
        "inverse:k=inf",
        "cyclic:cycles=",
    ):
        with pytest.raises(UsageError, match=r"Wrong value of `\w+` of schedule.*default"):
            parse(text)
    for text in ("step:every", "step:every=2,every=3"):
        with pytest.raises(UsageError, match=r"Wrong option of schedule 'step': every.*each key"):
            parse(text)


def test_the_recipe_takes_what_fit_takes():
    optimizers = typing.get_args(Train.model_fields["optimizer"].annotation)
    assert list(optimizers) == list(fitting.OPTIMIZERS)
    found = resolve(sets=["train.schedule=step:every=3", "train.optimizer=momentum-ramp"]).recipe
    assert found.train.schedule == "step:every=3"
    with pytest.raises(UsageError, match=r"schedule 'stp'.*step"):
        resolve(sets=["train.schedule=stp"])


@pytest.mark.parametrize(
    ("optimizer", "schedule", "lr"),
    [
        ("momentum-ramp", "cyclic:cycles=2", 0.05),
        ("plain-sgd", "step", 0.3),
        ("momentum", "exponential", 0.05),
        ("adagrad", "inverse", 0.05),
        ("adadelta", "constant", 3.0),
        ("rmsprop", "cosine", 0.01),
    ],
)
def test_trains_by_each(optimizer, schedule, lr):
    keras.utils.set_random_seed(0)
    x = image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(x))
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    history = fit(
        model, Pictures(), epochs=6, batch_size=8, lr=lr, optimizer=optimizer, schedule=schedule
    )
    assert history.rows[-1]["accuracy"] > 0.9
