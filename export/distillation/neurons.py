"""Neuron selection: a student learns those features of its teacher that tell classes apart."""

import keras
import numpy as np
from keras import ops

from cnnkit.errors import UsageError
from cnnkit.types import Tensor


def select(features: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Returns the numbers of at most `count` neurons that discriminate well and correlate little.

    A neuron's worth is the fraction of its variance that lies between the classes. They are taken
    one by one, each time the one of highest `worth · (1 - |r|)`, where r is the strongest
    correlation with one that is taken. A constant neuron and a copy of a taken one are worth 0.

    Args:
        features: `(n, neurons)`.
        labels: `(n,)`.
        count: At most.

    Reference:
        Luo et al. 2016, "Face Model Compression by Distilling Knowledge from Neurons", AAAI.
        Differs: the two terms of its energy are kept, but minimised greedily, and the worth is
        measured on the classes, where the paper has attributes of faces.
    """
    centred = features - features.mean(0, dtype=np.float64)
    norms = np.linalg.norm(centred, axis=0)
    alive = norms > 1e-6 * (norms.max() or 1.0)
    unit = np.where(alive, centred / np.where(alive, norms, 1.0), 0.0)
    groups = [unit[labels == label] for label in np.unique(labels)]
    worth = sum(len(group) * group.mean(0) ** 2 for group in groups)

    chosen: list[int] = []
    score = worth
    strongest = np.zeros_like(norms)
    while len(chosen) < count and score.max() > 1e-6:
        best = int(score.argmax())
        chosen.append(best)
        strongest = np.maximum(strongest, np.abs(unit.T @ unit[:, best]))
        score = worth * (1 - strongest)
        score[best] = 0.0
    return np.array(chosen, int)


def neuron_regression(
    teacher: keras.Model,
    student: keras.Model,
    keep: float,
    x: np.ndarray,
    y: np.ndarray,
) -> tuple[keras.distillation.FeatureDistillation, keras.layers.Layer]:
    """Returns the loss, and the regressor that is trained with the student and then dropped.

    The loss is the mean squared error between the teacher's selected neurons, standardised, and
    an affine function of the features on which the student's logits are made.

    Args:
        teacher: Model whose logits are made by a Dense layer.
        student: The same.
        keep: Fraction of the teacher's neurons that are selected at most, in (0, 1].
        x: Pictures to select them on.
        y: Their labels.

    Raises:
        UsageError: If one of the models has no layer of neurons before its logits.
    """
    taught, learnt = _before_logits(teacher), _before_logits(student)
    neurons = keras.Model(teacher.inputs[0], taught.output)
    features = neurons.predict(x, batch_size=256, verbose=0)
    chosen = select(features, y, max(1, round(keep * features.shape[-1])))
    if not len(chosen):
        raise UsageError("No neuron of the teacher tells classes apart", where=taught.name)
    mean, deviation = features[:, chosen].mean(0), features[:, chosen].std(0)
    initializer = keras.initializers.GlorotUniform(seed=0)
    regressor = keras.layers.Dense(
        len(chosen), kernel_initializer=initializer, dtype="float32", name="regressor"
    )
    regressor.build((None, learnt.output.shape[-1]))

    def loss(teacher: Tensor, student: Tensor) -> Tensor:
        wanted = (ops.take(ops.cast(teacher, "float32"), chosen, -1) - mean) / deviation
        return ops.mean(ops.square(wanted - regressor(student)), -1)

    return keras.distillation.FeatureDistillation(loss, taught.name, learnt.name), regressor


def _before_logits(model: keras.Model) -> keras.layers.Layer:
    """Returns the layer that a Dense layer makes the logits from."""
    last = next((layer for layer in reversed(model.layers) if layer.weights), None)
    if isinstance(last, keras.layers.Dense):
        for layer in model.layers:
            if layer.output is last.input and len(layer.output.shape) == 2:
                return layer
    raise UsageError(
        "Neurons can be taught only if a Dense layer makes the logits from a layer's features",
        where=model.name,
        todo="use the method soft-labels or logits",
    )
