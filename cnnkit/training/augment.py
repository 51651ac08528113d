"""From the recipe to what is done to training pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
import tensorflow as tf  # The augmentations are its operations.

from cnnkit import augmentation
from cnnkit.analysis import drawing
from cnnkit.analysis.boxes import strong_boxes
from cnnkit.analysis.heat_maps import grad_cam
from cnnkit.augmentation import Augmentation
from cnnkit.data import sample
from cnnkit.errors import UsageError
from cnnkit.models.saving import load_model
from cnnkit.types import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

    from cnnkit.data import Dataset
    from cnnkit.training.recipe import Recipe
    from cnnkit.training.reporter import Reporter

# Pictures whose heat maps are made at once.
_BATCH = 128
# Training pictures whose colours are looked at, if there are so many.
_COLOURS = 1000
# `auto`: pictures of so few pixels a side are left alone, as every row of them counts; grey ones up
# to the size of characters are cropped (`benchmarks/few_pictures.md`).
_TINY, _CHARACTER = 8, 32


@dataclass(frozen=True)
class Augmenter:
    """What is done to batches of training pictures; called as an augmentation is.

    Attributes:
        stack: The parts, one after the other.
        boxes: What matters in each training picture, in their order, float32 `(n, 4)`: a call then
            needs those of its pictures. None if no part needs them.
    """

    stack: augmentation.Stack
    boxes: np.ndarray | None = None

    def __call__(
        self, x: Tensor, y: Tensor, seed: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.stack(x, y, seed, boxes)

    def __str__(self) -> str:
        return ", ".join(map(repr, self.stack.parts))

    def without_mixing(self) -> Augmenter | None:
        """Returns the same without parts that put two pictures together; None if no part stays."""
        mixing = (augmentation.MixUp, augmentation.CutMix, augmentation.OneOf)
        parts = [part for part in self.stack.parts if not isinstance(part, mixing)]
        if len(parts) == len(self.stack.parts):
            return self
        return Augmenter(augmentation.Stack(parts), self.boxes) if parts else None


def preset(recipe: Recipe, image_shape: tuple[int, int, int]) -> tuple[str, str]:
    """Returns the preset that a recipe means for pictures of a shape, and why, in words."""
    name, (height, width, channels) = recipe.augment.preset, image_shape
    if name != "auto":
        return name, "as the recipe says"
    size = f"{height}x{width} pixels"
    if min(height, width) <= _TINY:
        return "none", f"{size} are so few that each counts"
    if channels == 1 and max(height, width) <= _CHARACTER:
        return "light", f"{size} in grey, the size of characters, are cropped"
    return "medium", f"{size}{' in grey' if channels == 1 else ''} bear turns and other colours too"


def augmenter(recipe: Recipe, dataset: Dataset) -> Augmenter | None:
    """Returns what a recipe does to the training pictures of a dataset, or None for nothing.

    Raises:
        UsageError: If the recipe does not fit the pictures, or `cam_crop` is no model of them.
    """
    chosen, channels = recipe.augment, dataset.image_shape[-1]
    name = preset(recipe, dataset.image_shape)[0]
    given = _preset(name, channels)
    parts: list[Augmentation] = []
    boxes = None
    if chosen.cam_crop != "none":
        boxes = response_boxes(_first_stage(chosen.cam_crop, dataset), *dataset.arrays("train"))
        parts.append(augmentation.BoxCrop())
    flips = {
        "horizontal": _on(chosen.horizontal_flip, name != "none" and channels == 3),
        "vertical": _on(chosen.vertical_flip, False),
    }
    if any(flips.values()):
        parts.append(augmentation.Flip(**flips))
    parts += given.parts
    strength = _or(chosen.fancy_pca, given.fancy_pca)
    if strength:
        if channels != 3:
            raise UsageError(
                "Fancy PCA changes the colour of the light: these pictures are grey",
                where="augment.fancy_pca",
                received=strength,
                todo="use augment.fancy_pca=0",
            )
        colours = augmentation.principal_colours(sample(dataset, _COLOURS)[0])
        parts.append(augmentation.FancyPCA(*colours, strength))
    parts += _mixing(_or(chosen.mixup, given.mixup), _or(chosen.cutmix, given.cutmix))
    return Augmenter(augmentation.Stack(parts), boxes) if parts else None


def by_epoch(
    made: Augmenter | None, recipe: Recipe, epochs: int, reporter: Reporter
) -> Callable[[int], Augmenter | None] | None:
    """Returns what is done in which epoch, or None: nothing is mixed in the last ones.

    Args:
        made: What `augmenter` made of the recipe.
        recipe: Says how many epochs are the last ones; the first mixes in any case.
        epochs: Of this training.
        reporter: Told if there are fewer of them.
    """
    if made is None:
        return None
    calm, last = made.without_mixing(), recipe.augment.off_last_epochs
    if calm is not made and last >= epochs:
        reporter.note(
            f"augment.off_last_epochs={last} leaves none of {epochs} epochs: pictures are mixed in "
            "the first"
        )
    return lambda epoch: made if epoch < max(1, epochs - last) else calm


def response_boxes(model: keras.Model, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns where in each picture a classifier sees its class, as boxes `(n, 4)`.

    Args:
        model: Functional classifier of raw pixels.
        x: Pixels `(n, height, width, channels)`.
        y: True classes `(n,)`: a heat map shows what speaks for them, whatever the answer is.

    Raises:
        UsageError: If the model has no maps to look at.
    """
    starts = range(0, len(x), _BATCH)
    batches = [slice(start, start + _BATCH) for start in starts]
    return np.concatenate([strong_boxes(grad_cam(model, x[b], y[b])) for b in batches])


def examples(augmenter: Augmenter, dataset: Dataset, rows: int = 6, columns: int = 8) -> Image:
    """Returns a sheet of training pictures, each with what augmentation may make of it.

    Args:
        augmenter: What is done.
        dataset: Whose training pictures are drawn from, always the same ones.
        rows: Pictures, at most.
        columns: In each row: the picture as it is, and others made of it.
    """
    x, y = dataset.arrays("train")
    chosen = np.random.default_rng(0).permutation(len(x))[:rows]
    boxes = None if augmenter.boxes is None else tf.constant(augmenter.boxes[chosen])
    pictures = tf.constant(x[chosen], tf.float32)
    labels = tf.one_hot(y[chosen], len(dataset.classes))
    made = [augmenter(pictures, labels, (0, k), boxes)[0] for k in range(1, columns)]
    sheet = np.stack([pictures, *made], 1).reshape(-1, *dataset.image_shape)
    return drawing.sheet(sheet / 255, columns)


@dataclass(frozen=True)
class _Preset:
    parts: list[Augmentation]
    fancy_pca: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


def _preset(name: str, channels: int) -> _Preset:
    """Returns what a name means: grey pictures have no colours to change."""
    if name == "none":
        return _Preset([])
    crop = augmentation.RandomCrop(0.8, 1.0)
    if name == "light":
        return _Preset([crop])
    colours: Augmentation
    fancy_pca = 0.1 if channels == 3 else 0.0
    if name == "medium":
        colours = augmentation.HSVJitter() if channels == 3 else augmentation.RGBJitter()
        return _Preset([crop, augmentation.Rotation(-15.0, 15.0), colours], fancy_pca)
    colours = (
        augmentation.HSVJitter(0.03, 0.4, 0.4) if channels == 3 else augmentation.RGBJitter(0.15)
    )
    parts = [crop, augmentation.Scale(), augmentation.Rotation(), colours]
    return _Preset([*parts, augmentation.Erasing(high=0.2, probability=0.25)], fancy_pca, 0.2, 1.0)


def _mixing(mixup: float, cutmix: float) -> list[Augmentation]:
    parts: list[Augmentation] = []
    if mixup:
        parts.append(augmentation.MixUp(mixup))
    if cutmix:
        parts.append(augmentation.CutMix(cutmix))
    return [augmentation.OneOf(parts)] if len(parts) > 1 else parts


def _on(switch: str, auto: bool) -> bool:
    return auto if switch == "auto" else switch == "on"


def _or(given: Any, preset: float) -> float:
    return preset if given is None else given


def _first_stage(source: str, dataset: Dataset) -> keras.Model:
    """Returns the model of a run folder or a file, which must know these pictures."""
    from cnnkit.training.train import Run

    path = Path(source)
    model = Run.open(path).model() if path.is_dir() else load_model(path)
    want = (dataset.image_shape, len(dataset.classes))
    have = (tuple(model.input_shape[1:]), model.output_shape[-1])
    if want != have:
        raise UsageError(
            "This model knows other pictures or classes",
            where=f"augment.cam_crop={source}",
            expected=f"pictures of {want[0]} and {want[1]} classes",
            received=f"{have[0]} and {have[1]}",
            todo="train the first stage with the same data.image_size and data.channels",
        )
    return model
