"""Selective joint fine-tuning: few pictures are learned together with like ones of another task."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from cnnkit.analysis.logits import logits
from cnnkit.errors import UsageError
from cnnkit.training.feature_trainer import classifier
from cnnkit.training.layer_rates import leaves
from cnnkit.training.objective import beyond_logits
from cnnkit.training.reporter import Reporter
from cnnkit.types import Tensor

if TYPE_CHECKING:
    from cnnkit.data import Dataset
    from cnnkit.training.recipe import Recipe

# Pictures from which the bounds of the bins are taken, and of which responses are held at a time.
_BOUNDS, _BATCH = 256, 64


@dataclass(frozen=True)
class Histograms:
    """Of the responses to each kernel of the first convolutions of a network.

    Attributes:
        net: From pixels to the responses of these layers.
        bounds: For each layer, the inner bounds of the bins, `(kernels, bins - 1)`.
    """

    net: keras.Model
    bounds: list[np.ndarray]

    @classmethod
    def of(
        cls, model: keras.Model, pictures: np.ndarray, *, layers: int = 2, bins: int = 16
    ) -> Histograms:
        """Chooses bounds between which about equally many responses to `pictures` lie.

        Args:
            model: Functional, from raw pixels.
            pictures: Of the source, `(n, height, width, channels)`.
            layers: First convolutions, at least 1.
            bins: Of each kernel, at least 2.

        Raises:
            UsageError: If the model has no convolution.
        """
        first = [layer for layer in leaves(model) if isinstance(layer, keras.layers.Conv2D)]
        if not first:
            raise UsageError("Shallow features need a convolution", where=model.name)
        net = keras.Model(model.inputs[0], [layer.output for layer in first[:layers]])
        some = np.random.default_rng(0).permutation(len(pictures))[:_BOUNDS]
        parts = np.arange(1, bins) / bins
        responses = _predict(net, pictures[np.sort(some)])
        return cls(
            net, [np.quantile(r.reshape(-1, r.shape[-1]), parts, axis=0).T for r in responses]
        )

    def __call__(self, pictures: np.ndarray) -> list[np.ndarray]:
        """Returns fractions for each layer, `(n, kernels, bins)`, none of them zero."""
        found: list[list[np.ndarray]] = [[] for _ in self.bounds]
        for start in range(0, len(pictures), _BATCH):
            responses = _predict(self.net, pictures[start : start + _BATCH])
            for parts, response, bounds in zip(found, responses, self.bounds, strict=True):
                parts.append(_histograms(response, bounds))
        return [np.concatenate(parts) for parts in found]


def distances(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
    """Returns how far apart pictures are, `(pictures of a, pictures of b)`.

    The sum over kernels of `KL(p, q) + KL(q, p)`, each layer divided by its number of kernels.

    Args:
        a: What `Histograms` gives for some pictures.
        b: The same for others.
    """
    total = np.zeros((len(a[0]), len(b[0])))
    for p, q in zip(a, b, strict=True):
        kernels = p.shape[1]
        p, q = (x.reshape(len(x), -1).astype(np.float64) for x in (p, q))
        own = (p * np.log(p)).sum(1)[:, None] + (q * np.log(q)).sum(1)
        total += (own - p @ np.log(q).T - np.log(p) @ q.T) / kernels
    return total


def nearest(
    model: keras.Model, target: np.ndarray, source: np.ndarray, neighbours: int = 10
) -> np.ndarray:
    """Returns, for each target picture, the numbers of the source pictures most like it.

    Like are those in whose place the first convolutions respond about as often as strongly.

    Args:
        model: Functional, from raw pixels, with weights of the source.
        target: `(n, height, width, channels)`.
        source: `(m, height, width, channels)`.
        neighbours: At most m.

    Raises:
        UsageError: If the model has no convolution.

    Reference:
        Ge and Yu 2017, "Borrowing Treasures from the Wealthy: Deep Transfer Learning through
        Selective Joint Fine-tuning", section 3.3, https://arxiv.org/abs/1702.08690, as in
        Wei 2017, section 11.2.5. Differs: every picture has equally many neighbours, which are
        chosen once; there, those that are still mistaken get more in each round.
    """
    histograms = Histograms.of(model, source)
    known, found = histograms(source), []
    for start in range(0, len(target), _BATCH):
        away = distances(histograms(target[start : start + _BATCH]), known)
        found.append(np.argsort(away, axis=1, kind="stable")[:, :neighbours])
    return np.concatenate(found)


class JointTrainer(keras.Model):
    """A classifier that learns its own task and another one, with a head for each.

    A step takes its pictures and as many of the source; the losses of both are added. It has
    the layers of the classifier, whose trunk both tasks train, and the second head: after `fit` the
    classifier is trained, and this wrapper can be dropped with that head.

    Args:
        model: Functional model from pictures to logits, which a Dense layer makes.
        pictures: Of the source.
        labels: Their class numbers.
        classes: Of the source.
        seed: Of what is drawn from the source.

    Raises:
        UsageError: If the logits are not made by a Dense layer.
    """

    def __init__(
        self,
        model: keras.Model,
        pictures: np.ndarray,
        labels: np.ndarray,
        classes: int,
        seed: int = 0,
    ) -> None:
        super().__init__(name=model.name)
        _, features = classifier(model)
        self.both = keras.Model(model.inputs[0], [features, model.outputs[0]])
        self.head = keras.layers.Dense(classes, name="source", dtype="float32")
        self.head.build(features.shape)
        self.seed = keras.random.SeedGenerator(seed)
        self.source = ops.convert_to_tensor(pictures)
        self.truth = ops.convert_to_tensor(labels.astype("int32"))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if not training:
            return self.both(inputs, training=False)[1]
        n = ops.shape(inputs)[0]
        drawn = keras.random.randint((n,), 0, len(self.source), seed=self.seed)
        others = ops.cast(ops.take(self.source, drawn, axis=0), inputs.dtype)
        features, both = self.both(ops.concatenate([inputs, others]), training=True)
        self._second = ops.mean(
            keras.losses.sparse_categorical_crossentropy(
                ops.take(self.truth, drawn),
                self.head(ops.cast(features[n:], "float32")),
                from_logits=True,
            )
        )
        return both[:n]

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return loss + self._second if training else loss

    @property
    def layers(self) -> list[keras.layers.Layer]:
        return self.both.layers


def joint(
    model: keras.Model, target: Dataset, source: Dataset, neighbours: int = 10, seed: int = 0
) -> tuple[Callable[[keras.Model], keras.Model], int]:
    """Returns the `wrap` under which `fit` learns both tasks, and how many pictures it selected.

    Args:
        model: That is trained, with weights of the source.
        target: Its training pictures are those to learn.
        source: Its training pictures are selected from, at the same size.
        neighbours: Of each target picture; the union of all is selected.
        seed: Of what is drawn.

    Raises:
        UsageError: If the model has no convolution, or no Dense layer makes its logits.
    """
    classifier(logits(model))
    x, y = source.arrays("train")
    chosen = np.unique(nearest(model, target.arrays("train")[0], x, neighbours))
    pictures, labels, classes = x[chosen], y[chosen], len(source.classes)
    return lambda net: JointTrainer(net, pictures, labels, classes, seed), len(chosen)


def joint_of(
    recipe: Recipe, target: Dataset, model: keras.Model, reporter: Reporter
) -> Callable[[keras.Model], keras.Model] | None:
    """Returns the `wrap` under which `fit` learns what `loss.joint` says, or None.

    Raises:
        UsageError: If the source or the model is not of the kind, or another loss needs the place.
    """
    from cnnkit.training.train import Run
    from cnnkit.training.train import load

    folder = recipe.loss.joint
    if folder == "none":
        return None
    if other := beyond_logits(recipe):
        raise UsageError("Joint fine-tuning has no place for another loss", received=other)
    run = Run.open(folder)
    height, width, channels = target.image_shape
    data = run.recipe.data.model_copy(
        update={"image_size": [height, width], "channels": channels, "resize": recipe.data.resize}
    )
    source = load(run.manifest, run.recipe.model_copy(update={"data": data}))
    wrap, number = joint(model, target, source, recipe.loss.joint_neighbours, recipe.train.seed)
    total = len(source.labels("train"))
    reporter.note(f"learned together with {number} of the {total} training pictures of {folder}")
    return wrap


def _predict(net: keras.Model, pictures: np.ndarray) -> list[np.ndarray]:
    found = net.predict(pictures.astype("float32"), batch_size=_BATCH, verbose=0)
    return list(found) if isinstance(found, list | tuple) else [found]


def _histograms(responses: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Returns the fractions of `(n, height, width, kernels)` in each bin, and a bit in each."""
    n, kernels, bins = len(responses), len(bounds), bounds.shape[1] + 1
    counts = np.empty((n, kernels, bins))
    rows = np.arange(n)[:, None] * bins
    for k in range(kernels):
        places = np.searchsorted(bounds[k], responses[..., k].reshape(n, -1), side="right")
        counts[:, k] = np.bincount((places + rows).ravel(), minlength=n * bins).reshape(n, bins)
    counts += 1 / bins  # As if one response more were spread: the logarithms are finite.
    return counts / counts.sum(-1, keepdims=True)
