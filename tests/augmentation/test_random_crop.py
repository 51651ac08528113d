import numpy as np
import pytest

from cnnkit.augmentation import RandomCrop
from tests.augmentation.draws import apply
from tests.augmentation.draws import pictures
from tests.augmentation.draws import ramps
from tests.specs import Spec

SPECS = (Spec("augmentation", "RandomCrop", lambda: RandomCrop(0.5, 0.7), input_shape=(12, 10, 3)),)


def test_parts_have_the_side_asked_for_and_lie_inside():
    """5.1: between two neighbours in the result lies the side of the part."""
    n, height, width = 200, 40, 30
    crops, _ = apply(RandomCrop(), ramps(n, height, width))
    sides = np.stack(
        [crops[:, 20, 16, 0] - crops[:, 20, 15, 0], crops[:, 20, 15, 1] - crops[:, 19, 15, 1]]
    )
    np.testing.assert_allclose(sides[0], sides[1], atol=1e-4)
    assert 0.8 <= sides.min() + 1e-4 < 0.81
    assert 0.89 < sides.max() - 1e-4 <= 0.9
    # Edges of the part: half a pixel of the result beyond its outer pixels.
    left, top = (crops[:, 20, 15, 0] - 15 * sides[0], crops[:, 20, 15, 1] - 20 * sides[0])
    starts = np.stack([left, top]) - sides[0] / 2 + 0.5
    ends = starts + sides[0] * np.array([[width], [height]])
    assert starts.min() >= -1e-3
    assert (ends <= [[width + 1e-3], [height + 1e-3]]).all()
    assert starts[0].min() < 0.2
    assert ends[1].max() > height - 0.3


def test_the_whole_picture_is_itself():
    x = pictures()
    np.testing.assert_array_equal(apply(RandomCrop(1.0, 1.0), x)[0], x)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`low` of RandomCrop must be in \(0.0, 1.0\]"):
        RandomCrop(0.0)
    with pytest.raises(ValueError, match=r"`high` of RandomCrop must be in \[0.8, 1.0\]"):
        RandomCrop(0.8, 0.7)
