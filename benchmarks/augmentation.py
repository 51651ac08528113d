"""Measures how many pictures of 224x224 a core augments in a second: ours, and Keras' layers.

    python -m benchmarks.augmentation          # half a minute; one core

Each runs as training does it: on a batch of 32 in a graph, mapped by tf.data with one thread. The
time is that of the processor, and all take turns, so that what else the machine does meets them
alike. Keras' layers are those that come nearest, with settings of the same strength; what they
draw is not the same. The rows go into `benchmarks/augmentation.md`.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_suffix(".md")
BATCH, SIDE, CLASSES = 32, 224, 10
BATCHES, TURNS = 1, 4


class Coloured:
    """What `augmenter` asks of a dataset: pictures of noise."""

    image_shape, classes = (SIDE, SIDE, 3), list("abcdefghij")

    def arrays(self, _: str) -> tuple[Any, Any]:
        """Returns as many pictures as there are in a batch."""
        import numpy as np

        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (BATCH, *self.image_shape)).astype(np.uint8)
        return x, np.arange(BATCH) % CLASSES


def functions() -> dict[tuple[str, str], Callable[[Any, Any, Any], Any]]:
    """Returns what is measured, by whose it is and its name; each takes x, y and a seed."""
    import keras

    from cnnkit import augmentation as ours
    from cnnkit.training import resolve
    from cnnkit.training.augment import augmenter

    layers = keras.layers
    pca = ours.principal_colours(Coloured().arrays("train")[0])
    parts = {
        "Flip": ours.Flip(),
        "RandomCrop": ours.RandomCrop(),
        "Rotation": ours.Rotation(),
        "flip, turn and scale": ours.Stack([ours.Flip(), ours.Rotation(), ours.Scale()]),
        "RGBJitter": ours.RGBJitter(),
        "HSVJitter": ours.HSVJitter(),
        "FancyPCA": ours.FancyPCA(*pca),
        "Erasing": ours.Erasing(),
        "MixUp": ours.MixUp(),
        "CutMix": ours.CutMix(),
    }
    for preset in ("light", "medium", "strong"):
        recipe = resolve(sets=[f"augment.preset={preset}"]).recipe
        parts[f"preset {preset}"] = augmenter(recipe, Coloured())
    theirs = {
        "Flip": layers.RandomFlip("horizontal"),
        "Rotation": layers.RandomRotation(30 / 360),
        "flip, turn and scale": layers.Pipeline(
            [
                layers.RandomFlip("horizontal"),
                layers.RandomRotation(30 / 360),
                layers.RandomZoom(0.25),
            ]
        ),
        "HSVJitter": layers.RandomColorJitter(
            (0, 255), brightness_factor=0.3, saturation_factor=(0.35, 0.65), hue_factor=0.02
        ),
        "Erasing": layers.RandomErasing(),
        "MixUp": layers.MixUp(0.2),
        "CutMix": layers.CutMix(1.0),
        "RandAugment": layers.RandAugment(),
    }
    found: dict[tuple[str, str], Callable[[Any, Any, Any], Any]] = {
        ("cnnkit", name): part for name, part in parts.items()
    }
    for name, layer in theirs.items():
        found["Keras", name] = _layer(layer)
    return found


def _layer(layer: Any) -> Callable[[Any, Any, Any], Any]:
    def call(x: Any, y: Any, _: Any) -> Any:
        batch = layer({"images": x, "labels": y}, training=True)
        return batch["images"], batch["labels"]

    return call


def mapped(function: Callable[[Any, Any, Any], Any]) -> Any:
    """Returns a `tf.data.Dataset` of what a function makes of a batch, in one thread."""
    import tensorflow as tf

    pixels, numbers = Coloured().arrays("train")
    x, y = tf.constant(pixels, tf.float32), tf.one_hot(numbers, CLASSES)
    data = tf.data.Dataset.range(BATCHES).map(
        lambda k: function(x, y, tf.cast(tf.stack([k, k]), tf.int32))
    )
    options = tf.data.Options()
    options.threading.private_threadpool_size = options.threading.max_intra_op_parallelism = 1
    return data.with_options(options)


def rates() -> dict[tuple[str, str], float]:
    """Returns pictures a second of processor time: all take turns, and the best turn counts."""
    made = {key: mapped(function) for key, function in functions().items()}
    least = dict.fromkeys(made, float("inf"))
    for turn in range(1 + TURNS):  # the first one warms up
        for key, data in made.items():
            start = time.process_time()
            for _ in data:
                pass
            if turn:
                least[key] = min(least[key], time.process_time() - start)
    return {key: BATCH * BATCHES / seconds for key, seconds in least.items()}


def main(argv: list[str] | None = None) -> int:
    """Writes the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    found = rates()
    lines = [f"| what | {' | '.join(OWNERS)} |", "|---|---|---|"]
    for name in dict.fromkeys(name for _, name in found):
        cells = [f"{found[who, name]:,.0f}" if (who, name) in found else "" for who in OWNERS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    TABLE.write_text(f"{HEAD}\n{table}\n", encoding="utf-8")
    sys.stdout.write(f"{table}\n")
    return 0


OWNERS = ("cnnkit", "Keras")
HEAD = f"""# Augmentation

Pictures of {SIDE}x{SIDE} in colour that a core augments in a second, by `python -m
benchmarks.augmentation`. The presets are those of `augment.preset`; movements of pixels that are
neighbours in one are done as one.
"""

if __name__ == "__main__":
    sys.exit(main())
