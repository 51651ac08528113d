import numpy as np
import pytest
import tensorflow as tf

from cnnkit.augmentation import BoxCrop
from cnnkit.augmentation import CutMix
from cnnkit.augmentation import Flip
from cnnkit.augmentation import MixUp
from cnnkit.augmentation import RandomCrop
from cnnkit.augmentation import RGBJitter
from cnnkit.augmentation import Rotation
from cnnkit.augmentation import Scale
from cnnkit.augmentation import Stack
from cnnkit.augmentation.augmentation import split
from tests.augmentation.draws import apply
from tests.augmentation.draws import pictures
from tests.specs import Spec

SPECS = (
    Spec(
        "augmentation",
        "Stack",
        lambda: Stack([BoxCrop(), Flip(), Rotation(), RGBJitter(), Scale(), MixUp(1.0)]),
        input_shape=(12, 10, 3),
    ),
)


def one_by_one(parts, x, seed=(3, 5)):
    seeds, y = split(tf.constant(seed), len(parts)), np.eye(len(x), dtype="float32")
    for part, own in zip(parts, seeds, strict=True):
        x, y = apply(part, x, y, own)
    return x, y


def smooth(n=8, size=33):
    """Waves so long that interpolation hardly errs, and that end flat at the borders."""
    rows, columns = np.cos(np.mgrid[:size, :size] * np.pi / (size - 1))
    slopes = np.random.default_rng(0).uniform(-30, 30, (n, 2, 1, 1))
    return (128 + slopes[:, 0] * rows + slopes[:, 1] * columns)[..., None].astype("float32")


def test_movements_as_one_are_movements_one_by_one():
    """5.1: stacked."""
    x = pictures()
    flips = [Flip(), Flip(vertical=True), Flip(False, True)]
    np.testing.assert_array_equal(apply(Stack(flips), x)[0], one_by_one(flips, x)[0])
    x, parts = smooth(), [Flip(), Rotation(-10, 10), Scale(), Flip(False, True), RandomCrop()]
    fused, want = apply(Stack(parts), x)[0], one_by_one(parts, x)[0]
    middle = np.s_[:, 6:-6, 6:-6]  # the rest may be mirrored in one and not in the other
    np.testing.assert_allclose(fused[middle], want[middle], atol=1.0)
    assert np.abs(fused - x)[middle].max() > 10


def test_pixels_are_interpolated_once():
    """Two turns that undo each other leave a picture of noise as it was."""
    x = pictures()
    back = Stack([Rotation(20, 20), Rotation(-20, -20)])
    np.testing.assert_allclose(apply(back, x)[0], x, atol=0.1)


def test_other_parts_keep_their_place():
    parts = [Flip(), RGBJitter(), Scale(1.0, 1.0), MixUp(1.0), CutMix(), Flip(vertical=True)]
    x = pictures()
    for got, want in zip(apply(Stack(parts), x), one_by_one(parts, x), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-3)


def test_parts_have_seeds_of_their_own():
    x = pictures(64)
    twice = apply(Stack([Flip(), Flip()]), x)[0]
    same = (twice == x).all((1, 2, 3)).mean()
    assert 0.3 < same < 0.7  # with one seed, the second flip would undo the first


def test_errors():
    with pytest.raises(ValueError, match="`parts` of Stack must be one or more augmentations"):
        Stack([])
    with pytest.raises(ValueError, match="`parts` of Stack must be one or more augmentations"):
        Stack([Flip(), lambda x, y, seed: (x, y)])
    with pytest.raises(ValueError, match=r"BoxCrop in a Stack must be the first.*Flip\(horizontal"):
        Stack([Flip(), BoxCrop()])
