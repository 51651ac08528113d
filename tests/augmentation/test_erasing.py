import numpy as np
import pytest

from cnnkit.augmentation import Erasing
from tests.augmentation.draws import apply
from tests.augmentation.draws import pictures
from tests.specs import Spec

SPECS = (Spec("augmentation", "Erasing", Erasing, input_shape=(12, 10, 3)),)


def test_a_rectangle_has_the_mean_colour_and_the_rest_is_left():
    n, size = 200, 60
    x = pictures(n, size, size)
    erased, _ = apply(Erasing(0.02, 0.3, probability=1.0), x)
    areas, ratios = [], []
    for before, after in zip(x, erased, strict=True):
        gone = (after != before).any(-1)
        rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert gone.sum() == height * width
        np.testing.assert_allclose(
            after[gone], np.tile(before.mean((0, 1)), (gone.sum(), 1)), rtol=1e-4
        )
        areas.append(gone.mean())
        ratios.append(height / width)
    assert 0.015 < min(areas) < 0.05
    assert 0.25 < max(areas) < 0.32
    assert 0.27 < min(ratios) < 0.5
    assert 2 < max(ratios) < 3.7


def test_how_many_pictures():
    x = pictures(200, 16, 16)
    np.testing.assert_array_equal(apply(Erasing(probability=0.0), x)[0], x)
    whole = (apply(Erasing(0.1), x)[0] == x).all((1, 2, 3)).mean()
    assert 0.4 < whole < 0.6


def test_no_area_is_identity():
    x = pictures()
    np.testing.assert_array_equal(apply(Erasing(0.0, 0.0, 1.0), x)[0], x)


def test_bad_arguments():
    for name, value in (("low", -0.1), ("high", 0.01), ("probability", 1.1)):
        with pytest.raises(ValueError, match=rf"`{name}` of Erasing must be in"):
            Erasing(**{name: value})
