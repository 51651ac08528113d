"""Whether calibration pictures are like those that the model was trained on.

An int8 file takes the ranges of its activations from them, and pictures that were prepared in
another way are the most frequent reason why it is worse than the model that it came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

# Fewer pictures leave the ends of the ranges to chance; TensorFlow's guide asks for 100 to 500.
ENOUGH = 100
# Training pictures that are looked at; they are spread over the whole split.
_SAMPLE = 500
# Pictures whose neighbouring pixels are looked at.
_NEIGHBOURS = 100
# A shift is told if it is above this part of the standard deviation of the pixels ...
_SHIFT = 0.25
# ... and above so many standard errors of the mean over pictures.
_ERRORS = 4.0
# A spread is told if it is so many times wider or narrower.
_SPREAD = 1.5
# Pictures are noise if neighbouring pixels are related less than this part as much as in training
# pictures, and in those by more than the latter.
_RELATED, _PICTURE = 0.5, 0.3
# So many classes are named at most.
_NAMED = 5


def check(
    x: np.ndarray,
    y: np.ndarray | None,
    train_x: np.ndarray,
    train_y: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
) -> list[str]:
    """Returns what is wrong with calibration pictures, a line each; none if they will do.

    Args:
        x: Calibration pictures `(n, height, width, channels)`.
        y: Their labels `(n,)`, or None if nobody knows them.
        train_x: Training pictures, as the model is fed with them.
        train_y: Their labels: what is a class, if `classes` does not say so.
        classes: Names of the classes, by label.
    """
    if not len(x):
        return ["there are no calibration pictures"]
    if x.shape[1:] != train_x.shape[1:]:
        return [
            f"calibration pictures have the shape {x.shape[1:]}, training ones {train_x.shape[1:]}"
        ]
    step = max(1, len(train_x) // _SAMPLE)
    seen, known = np.asarray(x, np.float32), np.asarray(train_x[::step], np.float32)
    found = _amount(seen)
    if y is not None:
        found += _classes(np.asarray(y), train_y, classes)
    if not np.isfinite(seen).all():
        return [*found, "calibration pictures hold NaN or infinite values"]
    # A wrong range explains every other difference.
    return found + (_range(seen, known) or [*_statistics(seen, known), *_noise(seen, known)])


def _amount(x: np.ndarray) -> list[str]:
    distinct = len({hashlib.sha256(picture.tobytes()).digest() for picture in x})
    found = []
    if distinct < len(x):
        found.append(f"only {distinct} of {len(x)} calibration pictures are different")
    if distinct < ENOUGH:
        found.append(
            f"{distinct} calibration pictures are few: ranges depend on chance below {ENOUGH}"
        )
    return found


def _classes(y: np.ndarray, train_y: np.ndarray | None, classes: Sequence[str] | None) -> list[str]:
    if classes is None and train_y is None:
        return []
    wanted = np.arange(len(classes)) if classes is not None else np.unique(np.asarray(train_y))
    missing = [str(classes[i] if classes else i) for i in np.setdiff1d(wanted, y)]
    if not missing:
        return []
    rest = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return [
        f"{len(missing)} of {len(wanted)} classes have no calibration picture: "
        f"{', '.join(missing[:_NAMED])}{rest}"
    ]


def _range(x: np.ndarray, train: np.ndarray) -> list[str]:
    """Compares how pixels are written down, which makes a difference of a factor or a sign."""
    kinds = _written(x), _written(train)
    if kinds[0] == kinds[1]:
        return []
    return [
        f"calibration pictures have values from {x.min():g} to {x.max():g} ({kinds[0]}), training "
        f"ones from {train.min():g} to {train.max():g} ({kinds[1]}): prepare them in the same way"
    ]


def _written(x: np.ndarray) -> str:
    low, high = float(x.min()), float(x.max())
    if low < 0:
        return "-1 to 1" if low >= -1 and high <= 1 else "standardized"
    return "0 to 1" if high <= 1 else "0 to 255"


def _statistics(x: np.ndarray, train: np.ndarray) -> list[str]:
    axes = tuple(range(1, x.ndim - 1))
    means, wanted = x.mean(axes), train.mean(axes)  # (pictures, channels)
    deviation = float(train.std()) or 1.0
    # Pixels of one picture are not independent, so pictures are what is counted.
    error = np.sqrt(means.var(0) / len(means) + wanted.var(0) / len(wanted))
    limit = np.maximum(_SHIFT * deviation, _ERRORS * error)
    mean, middle = means.mean(0), wanted.mean(0)
    found = []
    if (np.abs(mean - middle) > limit).any():
        swapped = (np.abs(mean[::-1] - middle) <= limit).all()
        found.append(
            f"the mean of calibration pictures is {_numbers(mean)}, that of training ones "
            f"{_numbers(middle)}" + (": are red and blue exchanged?" if swapped else "")
        )
    ratio = float(x.std()) / deviation
    if not 1 / _SPREAD <= ratio <= _SPREAD:
        found.append(
            f"the standard deviation of calibration pictures is {x.std():.3g}, that of training "
            f"ones {train.std():.3g}"
        )
    return found


def _noise(x: np.ndarray, train: np.ndarray) -> list[str]:
    related, wanted = _relation(x), _relation(train)
    if wanted < _PICTURE or related >= _RELATED * wanted:
        return []
    return [
        f"neighbouring pixels of calibration pictures have a correlation of {related:.2f}, those "
        f"of training ones {wanted:.2f}: noise gives other ranges than pictures"
    ]


def _relation(x: np.ndarray) -> float:
    """Returns the correlation of neighbours in a row; 0 where there is nothing to correlate."""
    if x.ndim < 4 or x.shape[2] < 2:
        return 0.0
    x = x[:: max(1, len(x) // _NEIGHBOURS)]
    a, b = x[:, :, :-1].ravel(), x[:, :, 1:].ravel()
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale else 0.0


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
