import colorsys

import numpy as np
import pytest

from cnnkit.augmentation import HSVJitter
from tests.augmentation.draws import apply
from tests.augmentation.draws import pictures
from tests.specs import Spec

SPECS = (Spec("augmentation", "HSVJitter", HSVJitter, input_shape=(12, 10, 3)),)


def hsv(x):
    return np.array([colorsys.rgb_to_hsv(*pixel) for pixel in x.reshape(-1, 3) / 255])


def test_one_turn_of_the_hue_and_two_factors_for_each_picture():
    """5.1, against the colorsys of Python."""
    x = 60 + pictures(6, 4, 4) / 3  # neither value nor saturation gets to its end
    for before, after in zip(x, apply(HSVJitter(0.05, 0.2, 0.3), x)[0], strict=True):
        before, after = hsv(before), hsv(after)
        turns = (after[:, 0] - before[:, 0] + 0.5) % 1 - 0.5
        np.testing.assert_allclose(turns, turns[0], atol=1e-4)
        factors = after[:, 1:] / before[:, 1:]
        np.testing.assert_allclose(factors, np.broadcast_to(factors[0], factors.shape), atol=1e-3)
        assert abs(turns[0]) <= 0.0501
        assert (np.abs(factors[0] - 1) <= [0.2001, 0.3001]).all()
        assert (np.abs(factors[0] - 1) > 0).all()


def test_nothing_gets_beyond_its_end():
    x = np.full((50, 2, 2, 3), [255.0, 0.0, 0.0], "float32")
    after, _ = apply(HSVJitter(0.0, 0.5, 0.5), x)
    assert after[..., 0].max() == 255
    assert after[..., 0].min() < 200
    np.testing.assert_allclose(after[..., 1], after[..., 2])


def test_no_strength_is_identity():
    x = pictures()
    np.testing.assert_allclose(apply(HSVJitter(0.0, 0.0, 0.0), x)[0], x, atol=1e-3)


def test_errors():
    with pytest.raises(ValueError, match=r"HSVJitter needs pictures in colour.*Received: 1"):
        apply(HSVJitter(), pictures(channels=1))
    for name, value in (("hue", 0.6), ("saturation", 1.1), ("value", -0.1)):
        with pytest.raises(ValueError, match=rf"`{name}` of HSVJitter must be in"):
            HSVJitter(**{name: value})
