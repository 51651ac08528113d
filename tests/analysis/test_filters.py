import keras
import numpy as np
import pytest

from cnnkit.analysis import drawing
from cnnkit.analysis import filters
from cnnkit.errors import UsageError
from tests.analysis import corner


def test_edge_filters_answer_to_their_edges():
    """2.3.2"""
    step = np.zeros((8, 8))
    step[:, 4:] = 10
    vertical, horizontal = (filters.filtered(step, name) for name in ("vertical", "horizontal"))
    assert vertical.shape == (8, 8)
    assert (vertical[:, 3:5] == 40).all()
    assert not np.delete(vertical, [3, 4], 1).any()
    assert not horizontal.any()
    np.testing.assert_array_equal(filters.filtered(step.T, "horizontal"), vertical.T)
    point = np.zeros((5, 5))
    point[2, 2] = 1
    want = np.abs(filters.EDGE_FILTERS["edges"])
    np.testing.assert_array_equal(filters.filtered(point, "edges")[1:4, 1:4], want)
    with pytest.raises(UsageError, match="Unknown edge filter"):
        filters.filtered(point, "sobel")


def test_first_filters_are_pictures_around_grey():
    """3.1.3"""
    found = filters.first_filters(corner.net())
    assert found.shape == (2, 3, 3, 1)
    np.testing.assert_allclose(found[0, 0, :, 0], [0.25, 1.0, 0.25])
    five = keras.Sequential([keras.Input((8, 8, 5)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(UsageError, match="no convolution of 1 or 3 channels"):
        filters.first_filters(five)


def test_top_pictures_and_activation_maps():
    """3.1.2"""
    x = np.zeros((4, 16, 16, 1), np.uint8)
    for k, light in enumerate([10, 200, 50, 100]):
        x[k, 2:9, 3] = light  # a vertical line
    x[2, 12, 4:12] = 250  # and a horizontal one
    maps = filters.activation_maps(corner.net(), x, "relu")
    assert maps.shape == (4, 16, 16, 2)
    np.testing.assert_array_equal(filters.activation_maps(corner.net(), x), maps)
    top = filters.top_pictures(corner.net(), x, "relu", 3)
    assert top[0].tolist() == [1, 3, 2]
    assert top[1, 0] == 2
    with pytest.raises(ValueError, match="`count` of top_pictures"):
        filters.top_pictures(corner.net(), x, "relu", 5)
    with pytest.raises(UsageError, match="no maps to look at: logits"):
        filters.activation_maps(corner.net(), x, "logits")


def test_drawings():
    heat = np.linspace(0, 1, 64).reshape(8, 8)
    image = drawing.overlay(np.full((8, 8, 1), 100, np.uint8), heat)
    assert image.size == (2 * 224, 224)
    pixels = np.asarray(image)
    assert (pixels[:, :224] == 100).all()
    assert pixels[-1, -1, 0] > pixels[-1, -1, 2]  # hot is red, cold is blue
    assert pixels[0, 224, 0] < pixels[0, 224, 2]
    sheet = drawing.sheet(drawing.stretched(np.random.default_rng(0).normal(size=(5, 4, 6))))
    assert sheet.size == (3 * 7 - 1, 2 * 5 - 1)
    assert drawing.stretched(np.ones((2, 3, 3))).max() == 0
