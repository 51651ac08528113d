import numpy as np
import pytest

from cnnkit.augmentation import FancyPCA
from cnnkit.augmentation import principal_colours
from tests.augmentation.draws import apply
from tests.augmentation.draws import pictures
from tests.specs import Spec

VECTORS = [[0.6, 0.8, 0.0], [0.8, -0.6, 0.0], [0.0, 0.0, 1.0]]
SPECS = (
    Spec(
        "augmentation",
        "FancyPCA",
        lambda: FancyPCA([50.0, 5.0, 1.0], VECTORS, strength=0.2),
        input_shape=(12, 10, 3),
    ),
)


def test_adds_one_colour_to_every_pixel_of_a_picture():
    """5.2.1"""
    x = 100 + pictures(2000, 3, 2) / 5
    shifts = apply(FancyPCA([50.0, 5.0, 1.0], VECTORS), x)[0] - x
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :1, :1], x.shape), atol=1e-4)
    drawn = shifts[:, 0, 0] @ np.array(VECTORS)  # along the directions
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.3)
    np.testing.assert_allclose(drawn.std(0), [5.0, 0.5, 0.1], rtol=0.06)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.1


def test_principal_colours_are_those_of_numpy():
    x = (pictures(5) @ np.array([[0.5, 0.3, 0.1], [0.2, 0.4, 0.1], [0.0, 0.1, 0.6]])).astype(
        "uint8"
    )
    deviations, vectors = principal_colours(x)
    pixels = x.reshape(-1, 3).astype(float)
    covariance = np.cov(pixels.T, bias=True)
    vectors = np.array(vectors)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(vectors * np.square(deviations) @ vectors.T, covariance, rtol=1e-9)
    assert deviations == sorted(deviations, reverse=True)
    np.testing.assert_allclose(deviations, (pixels @ vectors).std(0))
    assert (np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0) > 0).all()


def test_shift_has_the_unit_of_the_pixels():
    """Pixels of half the range vary by half: so do the shifts. Not so with eigenvalues."""
    x = pictures(5)
    whole, half = (principal_colours(pixels)[0] for pixels in (x, x / 2))
    np.testing.assert_allclose(np.divide(whole, half), 2)


def test_no_strength_and_one_colour_are_identity():
    x = pictures()
    np.testing.assert_array_equal(apply(FancyPCA([9, 9, 9], VECTORS, 0.0), x)[0], x)
    plain = np.full((4, 3, 3, 3), 7, np.uint8)
    assert principal_colours(plain)[0] == [0, 0, 0]


def test_errors():
    with pytest.raises(ValueError, match=r"FancyPCA needs pictures in colour.*Received: 1"):
        apply(SPECS[0].make(), pictures(channels=1))
    with pytest.raises(ValueError, match=r"principal_colours needs pictures in colour"):
        principal_colours(pictures(channels=1))
    with pytest.raises(ValueError, match=r"principal_colours needs a picture"):
        principal_colours(pictures(0))
    with pytest.raises(ValueError, match=r"`deviations` of FancyPCA must be .* shape \(3,\)"):
        FancyPCA([1.0], VECTORS)
    with pytest.raises(ValueError, match=r"`vectors` of FancyPCA must be .* shape \(3, 3\)"):
        FancyPCA([1.0, 1.0, 1.0], [[1.0, 0.0, np.inf]] * 3)
    with pytest.raises(ValueError, match="`deviations` of FancyPCA must not be negative"):
        FancyPCA([1.0, -1.0, 1.0], VECTORS)
