"""Figure 9.3 of Wei 2017: features of digits in the plane, drawn together by the centre loss.

    python -m benchmarks.center_loss    # two minutes of one core

A small network whose last features are two numbers is trained with each weight of the centre loss
on scikit-learn's digits. The rows go into `benchmarks/center_loss.md` as they are known, the
picture into `benchmarks/center_loss.png`.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from cnnkit import data
from cnnkit import files
from cnnkit.losses import CenterLoss
from cnnkit.training.feature_trainer import FeatureTrainer
from cnnkit.training.fit import fit

TABLE = Path(__file__).with_suffix(".md")
WEIGHTS = (0.0, 0.001, 0.01, 0.1, 1.0)
TEACHING: dict[str, Any] = {"epochs": 60, "batch_size": 64, "lr": 5e-3, "keep_best": False}


def network() -> keras.Model:
    """Returns a network from raw pixels to logits, through two features."""
    keras.utils.set_random_seed(0)
    x = image = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 255, name="pixels")(x)
    for number, filters in enumerate((16, 32), 1):
        x = layers.Conv2D(filters, 3, padding="same", name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"bn{number}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{number}")(
            layers.PReLU(shared_axes=(1, 2), name=f"act{number}")(x)
        )
    x = layers.Dense(2, name="features")(layers.Flatten(name="flatten")(x))
    return keras.Model(image, layers.Dense(10, name="logits")(x))


def features_of(weight: float, digits: data.Dataset) -> tuple[np.ndarray, float]:
    """Returns the test digits' features, and the accuracy, of a network trained with `weight`."""
    model = network()

    def wrap(plain: keras.Model) -> keras.Model:
        return FeatureTrainer(plain, center=CenterLoss(10, 2), center_weight=weight)

    fit(model, digits, wrap=wrap, **TEACHING)
    both = keras.Model(model.inputs[0], [model.get_layer("features").output, model.outputs[0]])
    x, y = digits.arrays("test")
    features, scores = both.predict(x.astype("float32"), batch_size=500, verbose=0)
    return features, float((scores.argmax(1) == y).mean())


def spreads(features: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Returns the mean distance to the class' own mean, and of means to their nearest other one."""
    means = np.stack([features[y == c].mean(0) for c in range(10)])
    between = np.linalg.norm(means[:, None] - means, axis=-1) + np.diag(np.full(10, np.inf))
    return float(np.linalg.norm(features - means[y], axis=1).mean()), float(between.min(1).mean())


def main() -> None:
    """Trains one network for each weight, and writes the table and the picture."""
    digits = data.load(data.check("digits"))
    y = digits.arrays("test")[1]
    rows, seen = [], {}
    for weight in WEIGHTS:
        seen[weight], accuracy = features_of(weight, digits)
        within, between = spreads(seen[weight], y)
        rows.append(
            f"| {weight:g} | {within:.3f} | {between:.3f} | {between / within:.2f} "
            f"| {100 * accuracy:.2f} % |"
        )
        write(rows)
    draw(seen, y)


def write(rows: list[str]) -> None:
    """Writes the table, whatever is known so far."""
    text = f"""# Centre loss on digits

A network with two features, trained on the training split of scikit-learn's digits for
{TEACHING["epochs"]} epochs, one seed. Within: mean distance of a test digit's features to the
mean of its class. Between: mean distance of a class' mean to the nearest other one. Written by
`python -m benchmarks.center_loss`, which draws `center_loss.png` too: figure 9.3 of Wei 2017.

| weight | within | between | between / within | test accuracy |
|---|---|---|---|---|
"""
    files.write_text(TABLE, text + "\n".join(rows) + "\n")


def draw(seen: dict[float, np.ndarray], y: np.ndarray) -> None:
    """Draws the features of the test digits, a panel for each weight."""
    from matplotlib.figure import Figure

    figure = Figure((3 * len(seen), 3), layout="constrained")
    for axes, (weight, features) in zip(figure.subplots(1, len(seen)), seen.items(), strict=True):
        axes.scatter(*features.T, c=y, s=0.5, cmap="tab10")
        axes.set_title(f"weight {weight:g}")
    figure.savefig(TABLE.with_suffix(".png"), dpi=80)


if __name__ == "__main__":
    main()
