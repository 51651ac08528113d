"""How much each weight matters: one function a saliency, an array for each kernel."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from cnnkit.errors import UsageError

if TYPE_CHECKING:
    import keras

    from export.pipeline import PassData
    from export.pruning.kernels import Kernel

_BATCH = 16
# Random directions in place of the classes, if there are more of these; and how many of all batches
# together are enough, which leave an error of a third in a weight's curvature.
_DIRECTIONS = 10
_DRAWS = 16
# Below it a probability has no gradient; its square root would have an infinite one.
_TINY = 1e-12


def magnitude(
    model: keras.Model, kernels: Sequence[Kernel], data: PassData | None
) -> list[np.ndarray]:
    """Absolute weights.

    Reference:
        Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks",
        section 3, https://arxiv.org/abs/1506.02626. Differs: nothing.
    """
    return [np.abs(kernel.value()) for kernel in kernels]


def lamp(model: keras.Model, kernels: Sequence[Kernel], data: PassData | None) -> list[np.ndarray]:
    """Squared weights, each divided by the sum of itself and all larger ones of its kernel.

    Within a kernel the order is that of `magnitude`; between kernels it spares those with few
    weights, and the largest weight of each scores 1.

    Reference:
        Lee et al. 2021, "Layer-adaptive sparsity for the Magnitude-based Pruning", eq. 4,
        https://arxiv.org/abs/2010.07611. Differs: nothing.
    """
    return [_lamp(kernel.value()) for kernel in kernels]


def _lamp(weights: np.ndarray) -> np.ndarray:
    squares = np.square(weights.ravel().astype(np.float64))
    order = np.argsort(squares, kind="stable")
    rest = np.cumsum(squares[order][::-1])[::-1]
    scores = np.empty_like(squares)
    scores[order] = squares[order] / np.where(rest > 0, rest, 1)
    return scores.reshape(weights.shape)


def obd(model: keras.Model, kernels: Sequence[Kernel], data: PassData | None) -> list[np.ndarray]:
    """What the loss rises by, to second order, without a weight: `h w² / 2`.

    `h` is the diagonal of the Gauss-Newton matrix of the cross-entropy, see `gauss_newton`.

    Reference:
        LeCun et al. 1990, "Optimal Brain Damage", eq. 5 and 8. Differs: cross-entropy and any
        layer graph, where the paper back-propagates second derivatives of a squared error.
    """
    return _second_order(kernels, gauss_newton(model, kernels, *_sample(data)[:1]))


def fisher(
    model: keras.Model, kernels: Sequence[Kernel], data: PassData | None
) -> list[np.ndarray]:
    """`h w² / 2` with the empirical Fisher diagonal, see `empirical_fisher`; needs labels."""
    x, y = _sample(data)
    if y is None:
        raise UsageError("The saliency needs labels", todo="give labelled data, or choose obd")
    return _second_order(kernels, empirical_fisher(model, kernels, x, y))


def obs(model: keras.Model, kernels: Sequence[Kernel], data: PassData | None) -> list[np.ndarray]:
    """What a layer's output changes by if the other weights make up for one, see `surgeon`."""
    from export.pruning import surgeon

    return surgeon.scores(model, kernels, _sample(data)[0])


Saliency = Callable[["keras.Model", Sequence["Kernel"], "PassData | None"], list[np.ndarray]]
SALIENCIES: dict[str, Saliency] = {
    "magnitude": magnitude,
    "lamp": lamp,
    "obd": obd,
    "fisher": fisher,
    "obs": obs,
}


def gauss_newton(
    model: keras.Model, kernels: Sequence[Kernel], x: np.ndarray, *, batch_size: int = _BATCH
) -> list[np.ndarray]:
    """Returns the mean over pictures of `Σ_c (2 ∂√p_c / ∂w)²` for every weight.

    That is the diagonal of the Gauss-Newton matrix of the cross-entropy, which for a softmax is
    the Fisher information. With more than 10 classes, random directions estimate the sum: at most
    10 a batch, and at least one, but no more than make 16 in all. The pictures of a batch are added
    with random signs, which makes their products vanish on average; with `batch_size=1` nothing is
    random but the directions.

    Reference:
        Martens 2020, "New insights and perspectives on the natural gradient method", section 8,
        https://arxiv.org/abs/1412.1193. Differs: the square root of the probabilities, whose
        derivatives need no labels to be drawn.
    """
    import tensorflow as tf

    rng = np.random.default_rng(0)
    draws = min(_DIRECTIONS, -(-_DRAWS // -(-len(x) // batch_size)))

    def directions(p: Any, start: int) -> list[Any]:
        classes = p.shape[-1]
        roots = 2 * tf.sqrt(tf.maximum(p, _TINY))
        if classes <= _DIRECTIONS:
            return tf.unstack(roots, axis=-1)
        signs = rng.choice([-1.0, 1.0], (classes, draws)) / np.sqrt(draws)
        return tf.unstack(roots @ tf.constant(signs, roots.dtype), axis=-1)

    return _mean_squares(model, kernels, x, directions, batch_size)


def empirical_fisher(
    model: keras.Model,
    kernels: Sequence[Kernel],
    x: np.ndarray,
    y: np.ndarray,
    *,
    batch_size: int = _BATCH,
) -> list[np.ndarray]:
    """Returns the mean over pictures of `(∂ log p_y / ∂w)²` for every weight.

    Cheaper than `gauss_newton`, but nearly zero where the model is right and sure. The pictures
    of a batch are added with random signs; with `batch_size=1` nothing is random.
    """
    import tensorflow as tf

    def directions(p: Any, start: int) -> list[Any]:
        labels = tf.constant(y[start : start + batch_size], tf.int32)
        right = tf.gather(p, labels, axis=-1, batch_dims=1)
        return [tf.math.log(tf.maximum(right, _TINY))]

    return _mean_squares(model, kernels, x, directions, batch_size)


def _mean_squares(
    model: keras.Model,
    kernels: Sequence[Kernel],
    x: np.ndarray,
    directions: Callable[[Any, int], list[Any]],
    batch_size: int,
) -> list[np.ndarray]:
    """Sums the squared gradients of each direction, a number for each picture; mean over them."""
    import keras
    import tensorflow as tf

    from cnnkit.analysis.logits import outputs_probabilities
    from cnnkit.onednn import unit_strides

    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        raise UsageError(
            "The saliency needs a classifier with one output",
            where=model.name,
            received=[tuple(output.shape) for output in model.outputs],
        )
    softmax = outputs_probabilities(model)
    rng = np.random.default_rng(1)
    # The tensors behind the Keras variables: these are what the tape watches.
    weights = [kernel.variable.value for kernel in kernels]
    total: list[Any] = [0.0] * len(weights)
    for start in range(0, len(x), batch_size):
        batch = x[start : start + batch_size]
        taped = tf.GradientTape(persistent=True, watch_accessed_variables=False)
        with unit_strides(), taped as tape:
            tape.watch(weights)
            scores = tf.cast(model(batch, training=False), tf.float32)
            signs = tf.constant(rng.choice([-1.0, 1.0], len(batch)), tf.float32)
            probabilities = scores if softmax else keras.ops.softmax(scores)
            sums = [tf.reduce_sum(signs * d) for d in directions(probabilities, start)]
        for one in sums:
            gradients = tape.gradient(one, weights, unconnected_gradients="zero")
            total = [t + tf.square(g) for t, g in zip(total, gradients, strict=True)]
        del tape
    return [np.asarray(t) / len(x) for t in total]


def _second_order(kernels: Sequence[Kernel], curvatures: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [0.5 * h * np.square(k.value()) for k, h in zip(kernels, curvatures, strict=True)]


def _sample(data: PassData | None) -> tuple[np.ndarray, np.ndarray | None]:
    if data is None or data.x is None:
        raise UsageError(
            "The saliency looks at pictures, and there are none",
            todo="give data, or choose magnitude or lamp",
        )
    return data.x, data.y
