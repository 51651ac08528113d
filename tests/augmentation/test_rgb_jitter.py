import numpy as np
import pytest

from cnnkit.augmentation import RGBJitter
from tests.augmentation.draws import apply
from tests.augmentation.draws import pictures
from tests.specs import Spec

SPECS = (Spec("augmentation", "RGBJitter", RGBJitter, input_shape=(12, 10, 3)),)


def test_adds_one_number_to_each_channel_of_each_picture():
    """5.1"""
    x = 100 + pictures(300) / 5
    shifts = apply(RGBJitter(0.1), x)[0] - x
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :1, :1], x.shape), atol=1e-4)
    drawn = shifts[:, 0, 0]
    assert 25 < np.abs(drawn).max() <= 25.5001
    np.testing.assert_allclose(drawn.mean(0), 0, atol=2.5)
    np.testing.assert_allclose(drawn.std(0), 25.5 / np.sqrt(3), rtol=0.1)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.2


def test_no_strength_is_identity():
    x = pictures()
    np.testing.assert_array_equal(apply(RGBJitter(0.0), x)[0], x)


def test_bad_strength():
    with pytest.raises(ValueError, match=r"`strength` of RGBJitter must be in \[0.0, 1.0\]"):
        RGBJitter(1.5)
