import numpy as np
import pytest

from cnnkit.augmentation import CutMix
from tests.augmentation.draws import apply
from tests.augmentation.draws import pictures
from tests.specs import Spec

SPECS = (Spec("augmentation", "CutMix", CutMix, input_shape=(12, 10, 3)),)


def test_labels_are_mixed_by_the_pixels_that_were_replaced():
    x = pictures(64, 24, 20)
    mixed, labels = apply(CutMix(), x)
    shares = []
    for k in range(64):
        foreign = (mixed[k] != x[k]).any(-1)
        other = int(np.argmax(labels[k] * (np.arange(64) != k)))
        if labels[k, k] > 1 - 1e-6:
            np.testing.assert_array_equal(mixed[k], x[k])
            continue
        np.testing.assert_array_equal(mixed[k][foreign], x[other][foreign])
        np.testing.assert_allclose(labels[k, other], foreign.mean(), atol=3e-3)
        rows, columns = np.flatnonzero(foreign.any(1)), np.flatnonzero(foreign.any(0))
        whole = foreign[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert whole.mean() > 0.97  # a rectangle, but for pixels that are equal by chance
        shares.append(labels[k, other])
    assert len(shares) > 50
    assert min(shares) < 0.1
    assert max(shares) > 0.6


def test_soft_labels_stay_their_expectation():
    x, soft = pictures(32), np.random.default_rng(0).dirichlet([1, 1, 1], 32).astype("float32")
    _, own = apply(CutMix(), x)
    np.testing.assert_allclose(apply(CutMix(), x, soft)[1], own @ soft, atol=1e-6)


def test_bad_alpha():
    with pytest.raises(ValueError, match=r"`alpha` of CutMix must be in \(0.0, inf\)"):
        CutMix(-1.0)
