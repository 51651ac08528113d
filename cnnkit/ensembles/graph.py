"""Several classifiers as one plain Keras model, which is trained, saved and exported as any other.

The members are copied and lie side by side in one flat graph from `image` to `probabilities`; the
layers of the first have names that begin with `member1_`, and so on. A member that ends in logits
gets a softmax.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from cnnkit.analysis.functional import called_once
from cnnkit.analysis.functional import copied_onto
from cnnkit.analysis.logits import last_dense
from cnnkit.analysis.logits import logits
from cnnkit.analysis.logits import outputs_probabilities
from cnnkit.ensembles.combination import checked_weights
from cnnkit.ensembles.learners import Dense
from cnnkit.errors import UsageError
from cnnkit.types import Tensor

# A softmax of probabilities times this is one where they are largest, and zero elsewhere, in
# float32, as soon as two of them differ by 2e-7.
_SHARPNESS = 1e8


def averaged(
    models: Sequence[keras.Model], weights: Sequence[float] | np.ndarray | None = None
) -> keras.Model:
    """Returns `combination.mean` of the members, or `combination.weighted`, as one model.

    Args:
        models: Functional or sequential classifiers of raw pixels, of one input size and with the
            same classes, ending in logits or probabilities. They are copied.
        weights: Not negative, of sum 1; None is the plain mean.

    Raises:
        UsageError: If there is no member, or they do not fit together.
        ValueError: If the weights are not such.
    """
    image, members = _side_by_side(models)
    if weights is None or len(members) == 1:
        return _finished(image, _mean(members))
    scaled = [
        keras.layers.Rescaling(float(weight), dtype="float32", name=f"weight{number}")(member)
        for number, (member, weight) in enumerate(
            zip(members, checked_weights(weights, len(members)), strict=True), 1
        )
    ]
    return _finished(image, keras.layers.Add(dtype="float32", name="weighted")(scaled))


def voting(models: Sequence[keras.Model]) -> keras.Model:
    """Returns `combination.plurality` of the members as one model.

    Made of layers that know how to be int8: a vote is a very sharp softmax. A member whose two
    likeliest classes are closer than 2e-7 splits its vote between them.

    Args:
        models: As for `averaged`.

    Raises:
        UsageError: If there is no member, or they do not fit together.
    """
    image, members = _side_by_side(models)
    votes = []
    for number, member in enumerate(members, 1):
        sharp = keras.layers.Rescaling(_SHARPNESS, dtype="float32", name=f"sharp{number}")(member)
        votes.append(keras.layers.Softmax(dtype="float32", name=f"vote{number}")(sharp))
    share = keras.layers.Average(dtype="float32", name="share")([*votes, _mean(members)])
    return _finished(image, share)


def stacked(models: Sequence[keras.Model], dense: Sequence[Dense]) -> keras.Model:
    """Returns a stacking of the members as one model.

    Args:
        models: As for `averaged`.
        dense: From the members' probabilities side by side to logits, such as `Stacking.layers`
            gives.

    Raises:
        UsageError: If there is no member, or they do not fit together.
    """
    image, members = _side_by_side(models)
    return _finished(image, _learner(members, dense))


def features(models: Sequence[keras.Model]) -> keras.Model:
    """Returns a model from `image` to the features before the members' logits, side by side.

    A learner such as a support vector machine can be fitted on them: feature-level fusion, Wei
    2017, section 13.2.2.

    Args:
        models: As for `averaged`; in each a Dense layer makes the logits.

    Raises:
        UsageError: If there is no member, or they do not fit together.
    """
    image, members = _copies([_until_features(model) for model in models])
    return called_once(image, _concatenated(members, "features"), "features")


def features_with(models: Sequence[keras.Model], dense: Sequence[Dense]) -> keras.Model:
    """Returns the classifier that a learner of `features` is, as one model.

    Args:
        models: As for `features`.
        dense: From the features to logits, such as `learners.dense_layers` gives.

    Raises:
        UsageError: If there is no member, or they do not fit together.
    """
    image, members = _copies([_until_features(model) for model in models])
    return _finished(image, _learner(members, dense))


def _side_by_side(models: Sequence[keras.Model]) -> tuple[Tensor, list[Tensor]]:
    """Returns the input, and the probabilities of each member."""
    image, outputs = _copies(models, [model.output_shape[1:] for model in models])
    members = []
    for number, (model, output) in enumerate(zip(models, outputs, strict=True), 1):
        if outputs_probabilities(model):
            members.append(output)
        else:
            end = keras.layers.Softmax(dtype="float32", name=f"member{number}_softmax")
            members.append(end(output))
    return image, members


def _copies(
    models: Sequence[keras.Model], classes: Sequence[tuple[int, ...]] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Returns the input, and the output of a copy of each model."""
    shapes = [model.input_shape[1:] for model in models]
    if len(set(shapes)) != 1 or len(set(classes)) > 1:
        raise UsageError(
            "An ensemble needs members of one input size and with the same classes",
            expected="one or more, of equal shapes",
            received=f"inputs {shapes}" + (f", outputs {list(classes)}" if classes else ""),
        )
    image = keras.Input(shapes[0], name="image", dtype="float32")
    return image, [
        copied_onto(image, model, f"member{number}_{{}}".format)
        for number, model in enumerate(models, 1)
    ]


def _mean(members: list[Tensor]) -> Tensor:
    if len(members) == 1:
        return members[0]
    return keras.layers.Average(dtype="float32", name="mean")(members)


def _until_features(model: keras.Model) -> keras.Model:
    found = last_dense(logits(model))
    if found is None:
        raise UsageError(
            "Features are what a Dense layer makes the logits from, and there is none",
            where=model.name,
            todo="combine the probabilities instead",
        )
    return keras.Model(model.inputs[0], found[1])


def _concatenated(tensors: list[Tensor], name: str) -> Tensor:
    if len(tensors) == 1:
        return tensors[0]
    return keras.layers.Concatenate(dtype="float32", name=name)(tensors)


def _learner(tensors: list[Tensor], dense: Sequence[Dense]) -> Tensor:
    x = _concatenated(tensors, "together")
    for number, (kernel, bias, activation) in enumerate(dense, 1):
        layer = keras.layers.Dense(len(bias), activation, dtype="float32", name=f"learner{number}")
        x = layer(x)
        layer.set_weights([kernel, bias])
    return keras.layers.Softmax(dtype="float32", name="learner_softmax")(x)


def _finished(image: Tensor, output: Tensor) -> keras.Model:
    end = keras.layers.Activation("linear", dtype="float32", name="probabilities")
    return called_once(image, end(output), "ensemble")
