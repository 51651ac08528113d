import numpy as np
import pytest

from export.quantization import calibration


def pictures(n, seed=0, channels=3):
    """Smooth pictures, each of its own brightness; red is brightest."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 1, (n, 4, 4, channels)).repeat(4, 1).repeat(4, 2)
    tint = np.linspace(1, 0.4, channels)
    return np.rint(255 * coarse * tint).astype("uint8")


TRAIN = pictures(400)
LABELS = np.arange(400) % 10


def check(x, y=None, **options):
    return calibration.check(x, y, TRAIN, LABELS, **options)


def test_a_sample_of_the_training_pictures_will_do():
    chosen = np.random.default_rng(1).permutation(400)[:120]
    assert check(TRAIN[chosen], LABELS[chosen]) == []
    assert check(pictures(120, seed=3)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x / 255, "values from 0 to 1 (0 to 1), training ones from 0 to 255 (0 to 255)"),
        (lambda x: x / 127.5 - 1, "(-1 to 1), training ones from 0 to 255 (0 to 255)"),
        (lambda x: (x - x.mean()) / x.std(), "(standardized), training ones"),
        (lambda x: x * 0.4 + 0.6 * 255, "the mean of calibration pictures is"),
        (lambda x: x[..., ::-1], "are red and blue exchanged?"),
        (lambda x: x.mean() + 0.3 * (x - x.mean()), "the standard deviation of calibration"),
        (lambda x: np.where(x == x.max(), np.nan, x), "NaN or infinite"),
        (
            lambda x: (
                np.random.default_rng(0).permuted(x.reshape(len(x), -1, 3), axis=1).reshape(x.shape)
            ),
            "noise gives other ranges than pictures",
        ),
    ],
)
def test_pictures_that_were_prepared_in_another_way(change, message):
    found = check(change(pictures(200, seed=3).astype("float32")))
    assert any(message in line for line in found), found


def test_a_wrong_range_is_the_only_line_about_it():
    assert len(check(pictures(200, seed=3) / 255)) == 1


def test_training_in_another_range_is_no_fault():
    assert calibration.check(pictures(120, seed=3) / 255, None, TRAIN / 255) == []


def test_few_equal_and_missing_ones():
    few = check(TRAIN[:20], LABELS[:20])
    assert few == ["20 calibration pictures are few: ranges depend on chance below 100"]
    same = check(np.concatenate([TRAIN[:100], TRAIN[:50]]))
    assert same == ["only 100 of 150 calibration pictures are different"]
    chosen = LABELS >= 3
    assert check(TRAIN[chosen], LABELS[chosen]) == [
        "3 of 10 classes have no calibration picture: 0, 1, 2"
    ]
    names = [f"kind {i}" for i in range(10)]
    chosen = LABELS >= 7
    assert check(TRAIN[chosen], LABELS[chosen], classes=names)[-1].endswith(
        "kind 0, kind 1, kind 2, kind 3, kind 4 and 2 more"
    )


def test_nothing_and_another_shape():
    assert check(TRAIN[:0]) == ["there are no calibration pictures"]
    assert "shape (8, 8, 3), training ones (16, 16, 3)" in check(TRAIN[:, :8, :8])[0]


def test_grey_pictures():
    grey = pictures(300, channels=1)
    assert calibration.check(grey[:150], None, grey) == []
    assert "mean" in calibration.check(255 - grey[:150] // 2, None, grey)[0]
