"""Where in a picture the answer is: boxes around the strong places of a heat map."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cnnkit import checks


def strong_boxes(heat: np.ndarray, threshold: float = 0.3) -> np.ndarray:
    """Returns the box around the largest connected place with a strong response.

    Args:
        heat: Maps `(n, height, width)` in [0, 1], as `heat_maps` makes them.
        threshold: What is strong, as a fraction of the strongest response, in (0, 1].

    Returns:
        Top, left, bottom and right of each, as fractions of height and width, float32 `(n, 4)`;
        of a map without any response, the whole picture.

    Raises:
        ValueError: If `threshold` is outside its interval.

    Reference:
        Zhou et al. 2016, "Learning Deep Features for Discriminative Localization", section 3.2,
        https://arxiv.org/abs/1512.04150. Differs: strong is 0.3, not 0.2, of the strongest.
    """
    checks.in_range("strong_boxes", "threshold", threshold, 0.0, 1.0, closed="right")
    size = np.tile(heat.shape[1:], 2)
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (len(heat), 1))
    for box, response in zip(boxes, heat, strict=True):
        if not response.any():
            continue
        places, _ = ndimage.label(response >= threshold * response.max())
        largest = np.bincount(places[places > 0]).argmax()
        rows, columns = ndimage.find_objects(places)[largest - 1]
        box[:] = np.array([rows.start, columns.start, rows.stop, columns.stop]) / size
    return boxes
