"""What a fitted learner of scikit-learn computes: as probabilities, and as dense layers."""

from typing import Any
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import RidgeClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from cnnkit.errors import UsageError

# Others, such as `SGDClassifier`, make probabilities of their decisions in other ways.
_LINEAR = (LogisticRegression, LinearSVC, RidgeClassifier)
# scikit-learn's words for the activations of a small net -> those of Keras.
_ACTIVATIONS = {"identity": "linear", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}


class Dense(NamedTuple):
    """`activation(x · kernel + bias)`."""

    kernel: np.ndarray
    bias: np.ndarray
    activation: str = "linear"


def probabilities(learner: Any, x: np.ndarray) -> np.ndarray:
    """Returns the learner's probabilities, or the softmax of its decisions if it has none.

    Args:
        learner: A fitted classifier of scikit-learn.
        x: Features `(n, features)`.
    """
    if hasattr(learner, "predict_proba"):
        return np.asarray(learner.predict_proba(x), float)
    scores = np.asarray(learner.decision_function(x), float)
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], -1)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def dense_layers(learner: Any) -> list[Dense]:
    """Returns the layers whose softmax gives the same as `probabilities`.

    Args:
        learner: A fitted `LogisticRegression`, `LinearSVC`, `RidgeClassifier` or
            `MLPClassifier`, or a pipeline of a `StandardScaler` and one of these.

    Raises:
        UsageError: If it is another one.
    """
    if isinstance(learner, Pipeline):
        *before, learner = (step for _, step in learner.steps)
        if len(before) == 1 and isinstance(before[0], StandardScaler):
            first, *rest = dense_layers(learner)
            return [_scaled(first, before[0]), *rest]
    elif isinstance(learner, MLPClassifier):
        activations = [_ACTIVATIONS[learner.activation]] * (len(learner.coefs_) - 1) + ["linear"]
        *hidden, last = map(Dense, learner.coefs_, learner.intercepts_, activations)
        return [*hidden, _of_each_class(last)]
    elif isinstance(learner, _LINEAR):
        kernel = np.atleast_2d(learner.coef_).T
        bias = np.broadcast_to(learner.intercept_, kernel.shape[1])
        return [_of_each_class(Dense(kernel, bias))]
    raise UsageError(
        "This learner is not made of dense layers",
        expected=f"{', '.join(kind.__name__ for kind in _LINEAR)} or MLPClassifier, with a "
        "StandardScaler before it or not",
        received=type(learner).__name__,
    )


def _of_each_class(last: Dense) -> Dense:
    """Returns a layer with one output for each of two classes; learners have one for both."""
    if last.kernel.shape[1] > 1:
        return last
    zeros = np.zeros_like(last.kernel)
    return Dense(np.concatenate([zeros, last.kernel], 1), np.r_[0.0, last.bias])


def _scaled(first: Dense, scaler: StandardScaler) -> Dense:
    """Returns what `first` computes behind `scaler`."""
    width = len(first.kernel)
    scale = scaler.scale_ if scaler.with_std else np.ones(width)
    shift = scaler.mean_ if scaler.with_mean else np.zeros(width)
    kernel = first.kernel / scale[:, None]
    return Dense(kernel, first.bias - shift @ kernel, first.activation)
