import numpy as np
import pytest

from cnnkit.augmentation import BoxCrop
from tests.augmentation.draws import apply
from tests.augmentation.draws import pictures
from tests.augmentation.draws import ramps
from tests.specs import Spec

SPECS = (Spec("augmentation", "BoxCrop", BoxCrop, input_shape=(12, 10, 3)),)


def test_the_part_holds_the_box_and_is_little_larger():
    """5.2.2"""
    n, size = 400, 40
    rng = np.random.default_rng(0)
    starts = rng.uniform(0, 0.5, (n, 2))
    boxes = np.concatenate([starts, starts + rng.uniform(0.1, 0.5, (n, 2))], 1)
    crops, _ = apply(BoxCrop(0.3, slack=0.2, probability=1.0), ramps(n, size, size), boxes=boxes)
    side = crops[:, 20, 21, 0] - crops[:, 20, 20, 0]
    need = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(1), 0.3)
    assert (side >= need - 1e-4).all()
    assert (side <= np.minimum(1.2 * need, 1) + 1e-4).all()
    assert (side > 1.1 * need).any()
    corner = crops[:, 20, 20, ::-1] - 20.5 * side[:, None] + 0.5  # top and left in pixels
    assert (corner >= -1e-2).all()
    assert (corner + size * side[:, None] <= size + 1e-2).all()
    assert (corner <= boxes[:, :2] * size + 1e-2).all()
    assert (corner + size * side[:, None] >= boxes[:, 2:] * size - 1e-2).all()


def test_others_stay_whole():
    x = pictures(200)
    boxes = np.tile([0.4, 0.4, 0.6, 0.6], (200, 1))
    np.testing.assert_array_equal(apply(BoxCrop(probability=0.0), x, boxes=boxes)[0], x)
    half = (apply(BoxCrop(), x, boxes=boxes)[0] == x).all((1, 2, 3)).mean()
    assert 0.4 < half < 0.6
    whole = np.tile([0.0, 0.0, 1.0, 1.0], (200, 1))
    np.testing.assert_array_equal(apply(BoxCrop(probability=1.0), x, boxes=whole)[0], x)


def test_errors():
    with pytest.raises(ValueError, match="BoxCrop needs `boxes`: top, left"):
        apply(BoxCrop(), pictures())
    with pytest.raises(ValueError, match=r"`low` of BoxCrop must be in \(0.0, 1.0\]"):
        BoxCrop(0.0)
    with pytest.raises(ValueError, match=r"`slack` of BoxCrop must be in \[0.0, inf\)"):
        BoxCrop(slack=-0.1)
    with pytest.raises(ValueError, match=r"`probability` of BoxCrop"):
        BoxCrop(probability=2.0)
