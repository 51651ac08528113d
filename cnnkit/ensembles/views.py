"""Test-time augmentation: several views of a picture, whose probabilities are averaged."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from cnnkit import checks
from cnnkit.errors import UsageError
from cnnkit.types import Tensor

# Of the sides of a picture that a crop has: 224 of 256 pixels.
CROP = 0.875
# By how much a picture shrinks, with black around it, to be seen from further away.
AWAY = 1.125


@dataclass(frozen=True)
class View:
    """A part of a picture, brought back to the picture's size.

    Args:
        side: Sides of the part as a fraction of the picture's, in (0, 2]; above 1 there is black
            around the picture.
        top: Where the part lies, in [0, 1]: 0 above, 0.5 in the middle, 1 below.
        left: The same from left to right.
        flip: Whether left and right are swapped.

    Raises:
        ValueError: If a number is outside.
    """

    side: float = 1.0
    top: float = 0.5
    left: float = 0.5
    flip: bool = False

    def __post_init__(self) -> None:
        checks.in_range("View", "side", self.side, 0.0, 2.0, closed="right")
        checks.in_range("View", "top", self.top, 0.0, 1.0)
        checks.in_range("View", "left", self.left, 0.0, 1.0)

    def __call__(self, image: Tensor, name: str) -> Tensor:
        """Returns the view of a symbolic picture; the layers' names begin with `name`."""
        height, width = image.shape[1:3]
        vertical, horizontal = self._edges(height, self.top), self._edges(width, self.left)
        x = image
        if self.side < 1:
            x = keras.layers.Cropping2D((vertical, horizontal), name=f"{name}_crop")(x)
        elif self.side > 1:
            x = keras.layers.ZeroPadding2D((vertical, horizontal), name=f"{name}_pad")(x)
        if x.shape[1:3] != (height, width):
            x = keras.layers.Resizing(height, width, name=f"{name}_size")(x)
        return keras.ops.flip(x, axis=2) if self.flip else x

    def _edges(self, size: int, place: float) -> tuple[int, int]:
        """Returns the pixels that are cut off, or added, before and behind."""
        edges = abs(size - max(1, round(size * self.side)))
        before = round(edges * place)
        return before, edges - before


# The picture, its four corners, its middle, and the picture from further away.
_PLACES = (
    View(),
    *(View(CROP, top, left) for top, left in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))),
    View(CROP),
    View(AWAY),
)


def views(count: int, flips: bool) -> list[View]:
    """Returns the first `count` views: the picture, its corners, its middle, and from away.

    With flips each is followed by its mirror image.

    Args:
        count: 1 is the picture alone.
        flips: Whether a mirror image is of the same class: not for characters.

    Raises:
        UsageError: If there are not that many.

    Reference:
        Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural Networks",
        section 4.1. Differs: its ten views are the corners, the middle and their mirror images;
        here the picture itself is the first, and crops are brought back to its size.
    """
    mirrored = (False, True) if flips else (False,)
    found = [View(v.side, v.top, v.left, flip) for v in _PLACES for flip in mirrored]
    if not 1 <= count <= len(found):
        raise UsageError(
            "There are not that many views of a picture",
            expected=f"1 to {len(found)}" + ("" if flips else ", without mirror images"),
            received=count,
        )
    return found[:count]


def flips_of(channels: int) -> bool:
    """Returns whether pictures may be mirrored if nobody says so: not grey ones, as digits are."""
    return channels == 3


def seen_by(
    predict: Callable[[np.ndarray], np.ndarray], shape: Sequence[int], seen: Sequence[View]
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns `predict`, averaged over the views of each picture.

    Args:
        predict: From raw pixels `(n, height, width, channels)` to probabilities, in any runtime.
        shape: `(height, width, channels)`.
        seen: One or more.
    """
    image = keras.Input(tuple(shape))
    cut = keras.Model(image, _cut(image, seen))

    def averaged(x: np.ndarray) -> np.ndarray:
        parts = keras.tree.flatten(cut.predict(np.asarray(x, np.float32), verbose=0))
        return np.mean([predict(part) for part in parts], 0)

    return averaged


def with_views(model: keras.Model, seen: Sequence[View]) -> keras.Model:
    """Returns one plain model that averages `model` over the views of a picture.

    The model is copied and stands in it as one layer, called once for each view.

    Args:
        model: Functional classifier of raw pixels that ends in probabilities.
        seen: One or more.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    classifier = keras.Model(copy.inputs[0], copy.outputs[0], name="classifier")
    image = keras.Input(model.input_shape[1:], name="image", dtype="float32")
    outputs = [classifier(view) for view in _cut(image, seen)]
    x = keras.layers.Average(dtype="float32", name="mean")(outputs) if len(seen) > 1 else outputs[0]
    end = keras.layers.Activation("linear", dtype="float32", name="probabilities")
    return keras.Model(image, end(x), name=f"{model.name}_views")


def _cut(image: Tensor, seen: Sequence[View]) -> list[Tensor]:
    return [view(image, f"view{number}") for number, view in enumerate(seen, 1)]
