import keras
import numpy as np
import pytest

from cnnkit.schedules import Warmup
from tests.specs import Spec

decay = keras.optimizers.schedules.InverseTimeDecay
SPECS = (Spec("schedule", "Warmup", lambda: Warmup(decay(0.1, 5, 2.0), steps=3)),)


def test_matches_the_formula():
    after = decay(0.1, 5, 2.0)
    for steps in (0, 1, 4):
        found = [float(Warmup(after, steps)(t)) for t in range(12)]
        want = [
            t / steps * 0.1 if t < steps else 0.1 / (1 + 2 * (t - steps) / 5) for t in range(12)
        ]
        np.testing.assert_allclose(found, want, rtol=1e-6)


def test_is_what_cosine_decay_has_built_in():
    cosine = keras.optimizers.schedules.CosineDecay
    built_in = cosine(0.0, 30, warmup_target=0.2, warmup_steps=10)
    mine = Warmup(cosine(0.2, 30), 10)
    np.testing.assert_allclose(
        [float(mine(t)) for t in range(45)], [float(built_in(t)) for t in range(45)], atol=1e-7
    )


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"`after` of Warmup must be a schedule.*0\.1"):
        Warmup(0.1, 3)
    with pytest.raises(ValueError, match=r"`steps` of Warmup must be an integer >= 0"):
        Warmup(decay(0.1, 5, 2.0), -1)
