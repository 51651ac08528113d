"""Light of another strength and colour."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from cnnkit import checks
from cnnkit.augmentation.augmentation import Augmentation
from cnnkit.augmentation.augmentation import clipped
from cnnkit.augmentation.augmentation import require_colours
from cnnkit.registry import register
from cnnkit.types import Tensor


@register("augmentation")
class FancyPCA(Augmentation):
    """Adds `[p₁, p₂, p₃] [a₁λ₁, a₂λ₂, a₃λ₃]ᵀ` to every pixel, with `a ~ N(0, strength²)`.

    p are the directions in which the colours of the training pictures vary, and λ says how much;
    each picture draws its a. See `principal_colours`.

    Args:
        deviations: λ, in pixels of 0-255: three numbers that are not negative.
        vectors: Rows of the matrix whose columns are p.
        strength: Standard deviation of a, not negative.

    Raises:
        ValueError: If an argument is none of that, or pictures in a call are grey.

    Reference:
        Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural Networks",
        section 4.1. Differs: λ are the square roots of the eigenvalues, which have the unit of
        pixels; an eigenvalue itself would shift pixels by a number that depends on whether they
        are counted to 255 or to 1.
    """

    def __init__(
        self,
        deviations: Sequence[float],
        vectors: Sequence[Sequence[float]],
        strength: float = 0.1,
    ) -> None:
        self.deviations = _numbers("deviations", deviations, (3,))
        self.vectors = _numbers("vectors", vectors, (3, 3))
        if min(self.deviations) < 0:
            raise ValueError(
                "`deviations` of FancyPCA must not be negative. "
                f"Received: deviations={self.deviations}"
            )
        self.strength = checks.in_range(
            "FancyPCA", "strength", strength, 0.0, float("inf"), closed="left"
        )

    def __call__(
        self, x: Tensor, y: Tensor, seed: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        require_colours("FancyPCA", x)
        normal = tf.random.stateless_normal((tf.shape(x)[0], 3), seed, alg="philox")
        steps = self.strength * normal * tf.constant(self.deviations)
        shifts = tf.matmul(steps, tf.constant(self.vectors), transpose_b=True)
        return clipped(x + shifts[:, None, None]), y

    def __repr__(self) -> str:
        return f"FancyPCA(strength={self.strength!r})"  # without twelve numbers nobody chose


def principal_colours(pictures: np.ndarray) -> tuple[list[float], list[list[float]]]:
    """Returns in what directions colours vary, and how much: most in the first one.

    Args:
        pictures: Pixels `(n, height, width, 3)`.

    Returns:
        Standard deviations along the directions, and rows of the matrix whose columns they are.

    Raises:
        ValueError: If pictures are grey, or there are none.
    """
    require_colours("principal_colours", pictures)
    if not pictures.size:
        raise ValueError("principal_colours needs a picture. Received: none")
    total, products, count = np.zeros(3), np.zeros((3, 3)), pictures.size // 3
    for picture in pictures:  # one by one: as float64 they are eight times as large
        colours = picture.reshape(-1, 3).astype(np.float64)
        total += colours.sum(0)
        products += colours.T @ colours
    mean = total / count
    values, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    vectors = vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    vectors = vectors * np.sign(largest)  # of the two signs of a direction, always the same
    return np.sqrt(np.maximum(values[::-1], 0)).tolist(), vectors.tolist()


def _numbers(name: str, given: Sequence, shape: tuple[int, ...]) -> list:
    array = np.asarray(given, float)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(
            f"`{name}` of FancyPCA must be finite numbers of shape {shape}. "
            f"Received: {name}={given}"
        )
    return array.tolist()
