"""Arrays of the analysis as pictures."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

# Small pictures are drawn at this size at least, in pixels.
SIDE = 224


def blended(picture: np.ndarray, heat: np.ndarray, strength: float = 0.5) -> np.ndarray:
    """Returns a picture under its heat map: `(height, width, 3)` in [0, 255].

    Args:
        picture: Raw pixels `(height, width, channels)` with one or three channels.
        heat: `(height, width)` in [0, 1].
        strength: Of the colours, in [0, 1].
    """
    import matplotlib

    colours = matplotlib.colormaps["jet"](np.asarray(heat))[..., :3] * 255
    return np.asarray((1 - strength) * picture + strength * colours)


def overlay(picture: np.ndarray, heat: np.ndarray, strength: float = 0.5) -> Image.Image:
    """Returns a picture, and beside it the same under its heat map, as in `blended`."""
    plain = np.broadcast_to(np.asarray(picture, np.float64), (*heat.shape, 3))
    pair = np.concatenate([plain, blended(picture, heat, strength)], 1)
    image = Image.fromarray(np.clip(np.rint(pair), 0, 255).astype(np.uint8))
    return enlarged(image, min(heat.shape))


def enlarged(image: Image.Image, side: int) -> Image.Image:
    """Returns an image whose pixels are so many times larger that `side` of them make `SIDE`."""
    times = max(1, math.ceil(SIDE / side))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def sheet(pictures: np.ndarray, columns: int | None = None) -> Image.Image:
    """Returns pictures side by side, one pixel apart.

    Args:
        pictures: `(n, height, width)` or `(n, height, width, channels)` in [0, 1], with one or
            three channels.
        columns: Pictures in a row; None makes it about square.
    """
    pictures = pictures if pictures.ndim == 4 else pictures[..., None]
    n, height, width, _ = pictures.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, 3))
    for k, picture in enumerate(pictures):
        top, left = k // columns * (height + 1), k % columns * (width + 1)
        canvas[top : top + height, left : left + width] = picture
    return Image.fromarray(np.rint(255 * np.clip(canvas, 0, 1)).astype(np.uint8))


def stretched(values: np.ndarray) -> np.ndarray:
    """Returns arrays `(n, …)`, each stretched to [0, 1]; a constant one becomes 0."""
    axes = tuple(range(1, values.ndim))
    low, high = values.min(axes, keepdims=True), values.max(axes, keepdims=True)
    return (values - low) / np.where(high > low, high - low, 1)
