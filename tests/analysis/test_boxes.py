import numpy as np
import pytest

from cnnkit.analysis.boxes import strong_boxes
from cnnkit.analysis.heat_maps import grad_cam
from tests.analysis import corner


def test_box_of_the_largest_strong_place():
    heat = np.zeros((3, 10, 20), np.float32)
    heat[0, 2:5, 4:12] = 0.5
    heat[0, 3, 6] = 1.0
    heat[0, 8, 18] = 1.0  # stronger, but small
    heat[0, 5:8, 10:20] = 0.2  # weak, and between the two
    heat[1, 9, 19] = 0.01  # the strongest there is
    want = [[0.2, 0.2, 0.5, 0.6], [0.9, 0.95, 1, 1], [0, 0, 1, 1]]
    np.testing.assert_allclose(strong_boxes(heat), want, rtol=1e-6)
    assert strong_boxes(heat).dtype == np.float32
    assert strong_boxes(heat, 0.1)[0].tolist() == pytest.approx([0.2, 0.2, 0.9, 1.0])


def test_finds_the_corner_with_the_evidence():
    """5.2.2"""
    heat = grad_cam(corner.net(), corner.pictures(), np.array([0, 0]))
    vertical, dark = strong_boxes(heat)
    assert vertical[0] <= 2 / 16
    assert vertical[2] >= 6 / 16
    assert (vertical[2:] <= 0.6).all()
    assert dark.tolist() == [0, 0, 1, 1]
    assert len(strong_boxes(heat[:0])) == 0


def test_bad_threshold():
    with pytest.raises(ValueError, match=r"`threshold` of strong_boxes must be in \(0.0, 1.0\]"):
        strong_boxes(np.ones((1, 2, 2)), 0.0)
