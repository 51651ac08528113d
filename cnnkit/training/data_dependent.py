"""Initialization that looks at the data: outputs of variance 1, and layers that learn alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from cnnkit import checks
from cnnkit.analysis.functional import graph_of
from cnnkit.analysis.functional import nodes
from cnnkit.analysis.logits import logits
from cnnkit.errors import UsageError
from cnnkit.onednn import unit_strides
from cnnkit.types import Tensor

STARTS = ("random", "pca", "kmeans")
# Enough for means and deviations to some per cent, and for components of patches of 3x3x64.
_PICTURES = 128
_PATCHES = 4000
_DRAWS = 16
_WEIGHTED = ("Conv1D", "Conv2D", "Conv3D", "Dense", "DepthwiseConv2D")
# Layers with `f(s x) = s f(x)` for positive `s`.
_HOMOGENEOUS = (
    *("AveragePooling2D", "Cropping2D", "Dropout", "Flatten", "GlobalAveragePooling2D"),
    *("GlobalMaxPooling2D", "Identity", "LeakyReLU", "MaxPooling2D", "PReLU", "Permute", "ReLU"),
    *("Reshape", "SpatialDropout2D", "UpSampling2D", "ZeroPadding2D"),
)
_STRAIGHT = (keras.activations.linear, keras.activations.relu, keras.activations.leaky_relu)


def initialize(
    model: keras.Model, pictures: np.ndarray, start: str = "random", seed: int = 0
) -> None:
    """Initializes the dense layers and convolutions of `model` in place, by looking at pictures.

    First, layer by layer from the input: kernels start as `start` says, and are scaled and
    shifted so that every channel has mean 0 (if there is a bias) and variance 1 on the pictures,
    before its activation. Batch normalization gets the statistics that it would see.

    Then the scales are moved between layers so that all change at one rate under gradient
    descent: `C_k² = E ‖dl/dW_k‖² / ‖W_k‖²` for random losses `l = η · logits`. Where ReLU and
    pooling alone lie between layers, this does not change what the network computes; layers
    before anything else, such as an addition, keep their scale.

    Args:
        model: Functional, from pictures to logits or probabilities. Layers in nested models, and
            of other kinds, keep their weights.
        pictures: Of the training split, `(n, …)`; 128 of them are enough.
        start: "random" are normal numbers; "pca" the principal components of the layer's inputs;
            "kmeans" the centres of their clusters, after whitening. Where there are more filters
            than components or clusters, the others are random.
        seed: Of the draws.

    Raises:
        ValueError: If `start` is unknown.
        UsageError: If the model is not functional, or there are no pictures.

    Reference:
        Krähenbühl et al. 2016, "Data-dependent Initializations of Convolutional Neural Networks",
        algorithms 1 and 2, https://arxiv.org/abs/1511.06856. Differs: the rates are made equal at
        once, by least squares over the logarithms of the scales, where the paper iterates; the
        expectation of squared gradients is over random losses of each picture, which need one
        backward pass for all.
    """
    checks.one_of("data_dependent", "start", start, STARTS)
    graph = graph_of(model)
    if graph is None or not len(pictures):
        raise UsageError("Data-dependent initialization needs a functional model and pictures")
    rng = np.random.default_rng(seed)
    some = rng.permutation(len(pictures))[:_PICTURES]
    x = np.asarray(pictures[np.sort(some)], "float32")
    calls = [n for n in nodes(graph) if _is_weighted(n.operation) or _is_norm(n.operation)]
    first = {id(n.operation): n for n in reversed(calls)}  # of a layer called twice, the first
    for node in calls:
        if first[id(node.operation)] is node:
            inputs = keras.Model(model.inputs[0], node.input_tensors[0])(x, training=False)
            _fit_to(node.operation, inputs, start, rng)
    _equalize(model, [n for n in calls if _is_weighted(n.operation)], x, rng)


def rates(model: keras.Model, pictures: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Returns the rate of change `C_k` of each layer with a kernel, by name."""
    layers = [n.operation for n in nodes(graph_of(model)) if _is_weighted(n.operation)]
    found = _rates(model, layers, np.asarray(pictures, "float32"), np.random.default_rng(seed))
    return dict(zip((layer.name for layer in layers), found, strict=True))


def _is_weighted(layer: Any) -> bool:
    return type(layer).__name__ in _WEIGHTED


def _is_norm(layer: Any) -> bool:
    return type(layer).__name__ == "BatchNormalization"


def _fit_to(layer: Any, inputs: Tensor, start: str, rng: np.random.Generator) -> None:
    if _is_norm(layer):
        mean, variance = _moments(inputs)
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
        return
    shape = tuple(layer.kernel.shape)
    kernel = rng.normal(size=shape)
    if start != "random" and _rows_per_filter(layer):
        found = (_components if start == "pca" else _centres)(_rows(layer, inputs, rng), shape, rng)
        kernel.reshape(-1, shape[-1])[:, : found.shape[1]] = found
    layer.kernel.assign(kernel)
    activation, layer.activation = layer.activation, keras.activations.linear
    try:
        if layer.use_bias:
            layer.bias.assign(np.zeros(layer.bias.shape))
        mean, variance = _moments(layer(inputs))
    finally:
        layer.activation = activation
    deviation = np.sqrt(np.where(variance > 0, variance, 1))
    # A depthwise kernel has its outputs on two axes.
    outputs = shape[2:] if type(layer).__name__ == "DepthwiseConv2D" else shape[-1:]
    layer.kernel.assign(kernel / deviation.reshape(outputs))
    if layer.use_bias:
        layer.bias.assign(-mean / deviation)


def _moments(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(ops.convert_to_numpy(ops.cast(values, "float32")), "float64")
    axes = tuple(range(values.ndim - 1))
    return values.mean(axes), values.var(axes)


def _rows_per_filter(layer: Any) -> bool:
    """Returns whether each filter is a product with the same rows of inputs."""
    kind = type(layer).__name__
    return kind == "Dense" or (kind == "Conv2D" and layer.groups == 1)


def _rows(layer: Any, inputs: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Returns what the filters of a layer are multiplied with, some of it, less its mean."""
    if type(layer).__name__ == "Conv2D":
        inputs = ops.image.extract_patches(
            inputs, layer.kernel_size, layer.strides, layer.dilation_rate[0], layer.padding
        )
    rows = np.asarray(ops.convert_to_numpy(inputs), "float64").reshape(-1, inputs.shape[-1])
    rows = rows[rng.permutation(len(rows))[:_PATCHES]]
    return rows - rows.mean(0)


def _directions(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the deviations along the principal components, and these as columns."""
    _, deviations, components = np.linalg.svd(rows, full_matrices=False)
    deviations /= math.sqrt(len(rows))
    kept = deviations > 1e-6 * deviations.max(initial=0.0)
    return deviations[kept], components[kept].T


def _components(rows: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return _directions(rows)[1][:, : shape[-1]]


def _centres(rows: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    from sklearn.cluster import MiniBatchKMeans

    deviations, components = _directions(rows)
    whitened = rows @ components / deviations
    if not whitened.size:
        return components
    means = MiniBatchKMeans(
        min(shape[-1], len(rows)),
        n_init=1,
        max_iter=20,  # a start, which training moves anyway
        random_state=int(rng.integers(2**31)),
    )
    centres = means.fit(whitened).cluster_centers_
    return components / deviations @ centres.T


def _equalize(model: keras.Model, calls: list[Any], x: np.ndarray, rng: Any) -> None:
    """Moves scale between layers until their rates of change are as equal as can be."""
    layers = [node.operation for node in calls]
    free, source, norms = _scalable(model, calls)
    # log C_k - 2 (s_k - s_source) = m for all k, with s = 0 where a layer is not free.
    n = len(layers)
    system = np.zeros((n, n + 1))
    system[:, n] = 1.0
    for k in range(n):
        if k in free:
            system[k, k] += 2.0
        if k in source:
            system[k, source[k]] -= 2.0
    scale = np.linalg.lstsq(system, np.log(_rates(model, layers, x, rng)), rcond=None)[0][:n]
    for k, layer in enumerate(layers):
        mine = scale[k] if k in free else 0.0
        before = scale[source[k]] if k in source else 0.0
        layer.kernel.assign(layer.kernel * math.exp(mine - before))
        if layer.use_bias:
            layer.bias.assign(layer.bias * math.exp(mine))
        for norm in norms.get(k, ()):
            norm.moving_mean.assign(norm.moving_mean * math.exp(mine))
            norm.moving_variance.assign(norm.moving_variance * math.exp(2 * mine))


def _scalable(
    model: keras.Model, calls: list[Any]
) -> tuple[set[int], dict[int, int], dict[int, list[Any]]]:
    """Returns which layers' outputs may be scaled, by what each is fed, and norms behind it."""
    graph = graph_of(model)
    ends = {id(tensor) for tensor in model.outputs}
    consumers: dict[int, list[Any]] = {}
    for node in nodes(graph):
        for tensor in node.input_tensors:
            consumers.setdefault(id(tensor), []).append(node)
    times = {id(node.operation): 0 for node in nodes(graph)}
    for node in nodes(graph):
        times[id(node.operation)] += 1
    number = {id(node): k for k, node in enumerate(calls)}

    def reached(tensor: Any) -> Iterator[Any]:
        """Yields the nodes that can undo a scale of `tensor`; None where one cannot."""
        if id(tensor) in ends:
            yield None
        for node in consumers.get(id(tensor), ()):
            if times[id(node.operation)] > 1 or len(node.input_tensors) > 1:
                yield None
            elif id(node) in number or _is_norm(node.operation):
                yield node
            elif _is_homogeneous(node.operation):
                yield from reached(node.output_tensors[0])
            else:
                yield None

    free, source, norms = set(), {}, {}
    for k, node in enumerate(calls):
        found = list(reached(node.output_tensors[0]))
        straight = node.operation.activation in _STRAIGHT
        if straight and found and None not in found and times[id(node.operation)] == 1:
            free.add(k)
            norms[k] = [n.operation for n in found if _is_norm(n.operation)]
            source.update({number[id(n)]: k for n in found if id(n) in number})
    return free, source, norms


def _is_homogeneous(layer: Any) -> bool:
    kind = type(layer).__name__
    if kind == "Activation":
        return layer.activation in _STRAIGHT
    if kind == "ReLU":
        return layer.max_value is None and not layer.threshold
    return kind in _HOMOGENEOUS


def _rates(model: keras.Model, layers: list[Any], x: np.ndarray, rng: Any) -> np.ndarray:
    scores = logits(model)
    kernels = [layer.kernel for layer in layers]
    squares = np.zeros(len(kernels))
    for _ in range(_DRAWS):
        # Of independent losses, the expected square of a sum is the sum of the squares.
        eta = rng.normal(size=(len(x), *scores.output_shape[1:])).astype("float32")
        squares += [np.square(g).sum() for g in _gradients(scores, x, eta, kernels)]
    norms = [np.square(ops.convert_to_numpy(kernel)).sum() for kernel in kernels]
    tiny = np.finfo(np.float32).tiny  # of layers without gradient, behind dead ones
    return np.sqrt(np.maximum(squares / _DRAWS / len(x) / norms, tiny))


def _gradients(
    model: keras.Model, x: np.ndarray, eta: np.ndarray, weights: list[Any]
) -> list[np.ndarray]:
    """Returns the gradients of `sum(eta * model(x))`; Keras has no function for it."""
    if keras.backend.backend() == "jax":
        import jax

        def loss(trainable: list[Any]) -> Any:
            fixed = [v.value for v in model.non_trainable_variables]
            return ops.sum(eta * model.stateless_call(trainable, fixed, x, training=False)[0])

        found = jax.grad(loss)([v.value for v in model.trainable_variables])
        place = {id(v): k for k, v in enumerate(model.trainable_variables)}
        return [np.asarray(found[place[id(weight)]]) for weight in weights]
    import tensorflow as tf

    values = [weight.value for weight in weights]
    with unit_strides(), tf.GradientTape() as tape:
        tape.watch(values)
        total = ops.sum(eta * model(x, training=False))
    return [np.asarray(g) for g in tape.gradient(total, values)]
