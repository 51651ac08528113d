import numpy as np
import pytest

from cnnkit.augmentation import Scale
from tests.augmentation.draws import apply
from tests.augmentation.draws import pictures
from tests.augmentation.draws import ramps
from tests.specs import Spec

SPECS = (Spec("augmentation", "Scale", Scale, input_shape=(12, 10, 3)),)


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1, 1.2, 1.3])
def test_factors_of_the_book(factor):
    """5.1: about the centre, which stays."""
    scaled, _ = apply(Scale(factor, factor), ramps(1, 21, 31))
    np.testing.assert_allclose(scaled[0, 10, 15], [15, 10], atol=1e-4)
    np.testing.assert_allclose(scaled[0, 12, 18] - [15, 10], np.divide([3, 2], factor), atol=1e-4)


def test_factors_are_in_the_interval_and_spread():
    scaled, _ = apply(Scale(), ramps(300, 21, 31))
    factors = 1 / (scaled[:, 10, 16, 0] - scaled[:, 10, 15, 0])
    assert 0.8 <= factors.min() + 1e-4 < 0.82
    assert 1.28 < factors.max() - 1e-4 <= 1.3
    np.testing.assert_allclose(np.log(factors).mean(), np.log(0.8 * 1.3) / 2, atol=0.03)


def test_what_lies_outside_is_the_mirror_image():
    x = pictures(1, 4, 4)
    half, _ = apply(Scale(0.5, 0.5), np.repeat(np.repeat(x, 4, 1), 4, 2))
    wide = np.pad(
        np.repeat(np.repeat(x, 2, 1), 2, 2), ((0, 0), (4, 4), (4, 4), (0, 0)), "symmetric"
    )
    np.testing.assert_allclose(half, wide, atol=1e-3)


def test_factor_one_is_identity():
    x = pictures()
    np.testing.assert_array_equal(apply(Scale(1.0, 1.0), x)[0], x)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`low` of Scale must be in \(0.0, inf\)"):
        Scale(0.0)
    with pytest.raises(ValueError, match=r"`high` of Scale must be in \[0.8, inf\)"):
        Scale(0.8, 0.7)
