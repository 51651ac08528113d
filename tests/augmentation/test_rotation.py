import numpy as np
import pytest

from cnnkit.augmentation import Rotation
from tests.augmentation.draws import apply
from tests.augmentation.draws import pictures
from tests.augmentation.draws import ramps
from tests.specs import Spec

SPECS = (Spec("augmentation", "Rotation", Rotation, input_shape=(12, 10, 3)),)


@pytest.mark.parametrize(("angle", "quarters"), [(90, 1), (-90, 3), (180, 2)])
def test_quarter_turns_are_those_of_numpy(angle, quarters):
    """5.1"""
    x = pictures(3, 9, 9)
    turned, _ = apply(Rotation(angle, angle), x)
    np.testing.assert_allclose(turned, np.rot90(x, quarters, (1, 2)), atol=1e-2)


@pytest.mark.parametrize("angle", [-30, -15, 15, 30])
def test_angles_of_the_book(angle):
    turned, _ = apply(Rotation(angle, angle), ramps(1, 21, 31))
    radians = np.radians(angle)
    cos, sin = np.cos(radians), np.sin(radians)
    np.testing.assert_allclose(turned[0, 10, 15], [15, 10], atol=1e-4)
    # One to the right of the centre is from below it, if the turn is counterclockwise.
    np.testing.assert_allclose(turned[0, 10, 19] - [15, 10], [4 * cos, 4 * sin], atol=1e-4)
    np.testing.assert_allclose(turned[0, 12, 15] - [15, 10], [-2 * sin, 2 * cos], atol=1e-4)


def test_angles_are_in_the_interval_and_spread():
    turned, _ = apply(Rotation(), ramps(300, 21, 31))
    angles = np.degrees(np.arcsin(turned[:, 10, 16, 1] - turned[:, 10, 15, 1]))
    assert -30.01 <= angles.min() < -28
    assert 28 < angles.max() <= 30.01
    assert abs(angles.mean()) < 3


def test_no_angle_is_identity():
    x = pictures()
    np.testing.assert_array_equal(apply(Rotation(0, 0), x)[0], x)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`low_deg` of Rotation must be in \[-180.0, 180.0\]"):
        Rotation(-200)
    with pytest.raises(ValueError, match=r"`high_deg` of Rotation must be in \[10, 180.0\]"):
        Rotation(10, 5)
