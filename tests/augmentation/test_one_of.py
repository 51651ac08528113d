import numpy as np
import pytest

from cnnkit.augmentation import CutMix
from cnnkit.augmentation import Flip
from cnnkit.augmentation import MixUp
from cnnkit.augmentation import OneOf
from cnnkit.augmentation import Scale
from tests.augmentation.draws import apply
from tests.augmentation.draws import pictures
from tests.specs import Spec

SPECS = (
    Spec(
        "augmentation",
        "OneOf",
        lambda: OneOf([MixUp(1.0), CutMix()]),
        input_shape=(12, 10, 3),
    ),
)


def test_each_picture_takes_one_of_them():
    x = pictures(300, 8, 8)
    zoomed = apply(Scale(2.0, 2.0), x)[0]
    results, _ = apply(OneOf([Scale(1.0, 1.0), Scale(2.0, 2.0)]), x)
    plain, large = ((results == y).all((1, 2, 3)) for y in (x, zoomed))
    assert (plain ^ large).all()
    assert 0.4 < plain.mean() < 0.6


def test_labels_are_those_of_the_one_taken():
    x = pictures(64, 16, 16)
    results, labels = apply(OneOf([MixUp(1.0), CutMix()]), x)
    mixed = np.abs(results - np.tensordot(labels, x, 1)).max((1, 2, 3)) < 1e-2
    assert 0.3 < mixed.mean() < 0.7
    cut = np.flatnonzero(~mixed)
    for k in cut:
        others = [x[j] for j in np.flatnonzero(labels[k])]
        assert np.all([(results[k] == other) for other in others], axis=0).shape == x[k].shape
        assert np.any([(results[k] == other).all(-1) for other in others], axis=0).all()


def test_bad_parts():
    with pytest.raises(ValueError, match="`parts` of OneOf must be one or more augmentations"):
        OneOf([Flip, MixUp])
