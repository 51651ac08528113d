"""TensorFlow Model Optimization for Keras 3: over to Keras 2, trained there, and back.

TFMOT knows the layers of Keras 2 alone, which live on as the package `tf_keras`. Both Kerases and
TFMOT share one process, if `tf.keras` has been looked up before TFMOT sets a variable that would
make it Keras 2 for all. Everything that knows TFMOT is in this module.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from cnnkit import files
from cnnkit.analysis.functional import graph_of
from cnnkit.analysis.functional import nodes
from cnnkit.errors import UsageError
from export.wrap import require_graph

if TYPE_CHECKING:
    from cnnkit.data import Dataset

# Trains a Keras 2 model in place; the callbacks have to be handed to its `fit`.
Train = Callable[[Any, list[Any]], None]

_LEGACY = "TF_USE_LEGACY_KERAS"
# Operations that Keras 3 puts into a graph by itself, and that change nothing.
_IDENTITY = "ConvertToTensor"
# What Keras 2 calls an argument that has another name in Keras 3.
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
_ALWAYS = ("name", "dtype", "trainable")
# Layers that TFMOT's int8 scheme leaves to others: pixels before it, probabilities after it.
_FRONT, _END = "Rescaling", "Softmax"
# Largest difference between the two Kerases, as a part of the largest output.
_TOLERANCE = 1e-4
# Steps between two choices of the weights that go, as TFMOT's schedules have it.
_FREQUENCY = 100


def to_tf_keras(model: keras.Model) -> Any:
    """Returns the Keras 2 model with the layers and weights of `model`, nested models opened.

    Both are run on random inputs, and every layer has to agree.

    Args:
        model: Functional or sequential, with one input of known shape and one output.

    Raises:
        UsageError: If TFMOT is not installed, or Keras 2 lacks a layer, an argument of it, or
            computes something else with it.
    """
    tf_keras = _libraries()[1]
    require_graph(model)
    if len(model.inputs) != 1 or len(model.outputs) != 1 or None in model.input_shape[1:]:
        raise UsageError(
            "TFMOT needs one input of known shape and one output",
            where=model.name,
            received=f"inputs {[t.shape for t in model.inputs]}, {len(model.outputs)} outputs",
        )
    graph = graph_of(model)
    found = dict(_layers(graph))
    kinds = [getattr(tf_keras.layers, type(layer).__name__, None) for layer in found.values()]
    strange = [
        f"{name} ({type(layer).__name__})"
        for (name, layer), kind in zip(found.items(), kinds, strict=True)
        if kind is None or type(layer) is not getattr(keras.layers, type(layer).__name__, None)
    ]
    if strange:
        raise UsageError(
            "Layers that Keras 2 and TFMOT do not know",
            where=", ".join(strange),
            todo="replace them by layers of Keras, or use cnnkit's own passes",
        )
    twins = {
        id(layer): _layer(kind, name, layer)
        for (name, layer), kind in zip(found.items(), kinds, strict=True)
    }
    image = tf_keras.Input(
        model.input_shape[1:], name=model.inputs[0].name, dtype=model.inputs[0].dtype
    )
    probes: list[tuple[str, Any, Any]] = []
    outputs = _run(graph, [image], twins, probes)
    twin = tf_keras.Model(image, outputs, name=model.name)
    for name, layer in found.items():
        try:
            twins[id(layer)].set_weights(layer.get_weights())
        except ValueError as error:
            raise UsageError(
                "Keras 2 has other weights for this layer", where=name, received=error
            ) from error
    _compare(model, image, probes)
    return twin


def prune(
    model: keras.Model,
    train: Train,
    *,
    steps: int,
    sparsity: float = 0.8,
    begin: float = 0.0,
) -> keras.Model:
    """Returns `model` pruned by `prune_low_magnitude`, as a plain Keras 3 model.

    Every kernel that TFMOT prunes gets the same sparsity; depthwise ones it leaves alone.

    Args:
        model: See `to_tf_keras`. It is not changed.
        train: Trains the wrapped model, for `steps` steps at least. `UpdatePruningStep` is among
            its callbacks.
        steps: Steps over which `PolynomialDecay` (cubic) goes from `begin` to `sparsity`.
        sparsity: Fraction of each kernel that is zero in the end, in (0, 1).
        begin: Fraction that is zero at the start, such as that of a model pruned before.

    Raises:
        UsageError: As `to_tf_keras`; or `train` stopped before the last step.

    Reference:
        Zhu & Gupta 2017, "To prune, or not to prune", https://arxiv.org/abs/1710.01878.
        Differs: nothing, TFMOT's own code is run.
    """
    tfmot, tf_keras = _libraries()
    from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import (
        PruneRegistry,
    )

    frequency = min(_FREQUENCY, steps)
    # The weights that go are chosen at multiples of `frequency` only; the last one has to count.
    end = steps // frequency * frequency
    schedule = tfmot.sparsity.keras.PolynomialDecay(begin, sparsity, 0, end, frequency=frequency)

    def wrapped(layer: Any) -> Any:
        if not PruneRegistry.supports(layer):
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)

    twin = tf_keras.models.clone_model(to_tf_keras(model), clone_function=wrapped)
    train(twin, [tfmot.sparsity.keras.UpdatePruningStep()])
    # Layers without kernels do not count.
    done = max((int(layer.pruning_step) for layer in twin.layers if _is_wrapped(layer)), default=0)
    if done < end:
        raise UsageError(
            "Training stopped before the weights were gone",
            where=model.name,
            expected=f"{end} steps",
            received=done,
        )
    return _restored(model, tfmot.sparsity.keras.strip_pruning(twin))


def cluster(model: keras.Model, train: Train, *, clusters: int = 16) -> keras.Model:
    """Returns `model` with few different weights in each kernel, by `cluster_weights`.

    Args:
        model: See `to_tf_keras`. It is not changed.
        train: Fine-tunes the wrapped model, whose weights move with their cluster.
        clusters: Different weights in each kernel, at most; at least 2.

    Raises:
        UsageError: As `to_tf_keras`; or TFMOT cannot cluster a layer.

    Reference:
        Han et al. 2016, "Deep Compression", https://arxiv.org/abs/1510.00149, section 3.
        Differs: nothing, TFMOT's own code is run, with centroids from k-means++.
    """
    tfmot = _libraries()[0].clustering.keras
    try:
        twin = tfmot.cluster_weights(
            to_tf_keras(model),
            number_of_clusters=clusters,
            cluster_centroids_init=tfmot.CentroidInitialization.KMEANS_PLUS_PLUS,
        )
    except ValueError as error:
        raise UsageError("TFMOT cannot cluster it", where=model.name, received=error) from error
    train(twin, [])
    return _restored(model, tfmot.strip_clustering(twin))


def quantize(model: keras.Model, train: Train, path: Path) -> keras.Model:
    """Trains `model` for int8 with `quantize_model` and writes TFMOT's TFLite file to `path`.

    Input and output of the file are float32. Rescaling of pixels at the front and a softmax at
    the end, for which TFMOT has no int8 or a coarse one, stay outside of what it trains.

    Args:
        model: See `to_tf_keras`. It is not changed.
        train: Trains the model that rounds.
        path: Where the file goes; it appears there whole or not at all.

    Returns:
        A plain Keras 3 model with the float weights behind the rounding. It is not what the file
        computes.

    Raises:
        UsageError: As `to_tf_keras`; or TFMOT has no int8 for a layer.

    Reference:
        Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", https://arxiv.org/abs/1712.05877. Differs: nothing,
        TFMOT's own code is run.
    """
    from export.formats import flatbuffer
    from export.formats import metadata
    from export.formats import tflite

    described = metadata.of(model, None, None)  # refuses before the work
    tfmot, tf_keras = _libraries()
    twin = to_tf_keras(model)
    front = [layer for layer in twin.layers[1:2] if type(layer).__name__ == _FRONT]
    end = [
        layer
        for layer in twin.layers[-1:]
        if type(layer).__name__ == _END and layer.output is twin.output
    ]
    try:
        body = tf_keras.Model(
            front[0].output if front else twin.input, end[0].input if end else twin.output
        )
        rounded = tfmot.quantization.keras.quantize_model(body)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            "TFMOT cannot train it for int8",
            where=model.name,
            received=str(error).splitlines()[0],
            todo="use the pass `qat`, which knows more layers",
        ) from error
    kept = {layer.layer.name for layer in rounded.layers if hasattr(layer, "layer")}
    kept |= {layer.name for layer in (*front, *end)}
    if gone := [n for n, layer in _layers(graph_of(model)) if layer.weights and n not in kept]:
        raise UsageError(
            "TFMOT takes these layers apart, so that their weights cannot come back",
            where=", ".join(gone),
            todo="use a depthwise and a pointwise convolution in their place",
        )
    x = image = tf_keras.Input(model.input_shape[1:], name=metadata.INPUT)
    for part in (*front, rounded, *end):
        x = part(x)
    whole = tf_keras.Model(image, x, name=model.name)
    train(whole, [])
    content = _converted(whole)
    with files.replacing(path) as partial:
        partial.write_bytes(flatbuffer.finish(content, described))
        tflite.interpreter(partial)  # refuses a file that cannot be run
    return _restored(model, rounded)


def trainer(
    dataset: Dataset,
    *,
    epochs: int,
    batch_size: int = 32,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> Train:
    """Returns what trains a Keras 2 model on `dataset` as `cnnkit.training.fit` does.

    AdamW, the rate falling to zero by a cosine, the same batches in the same order; the weights
    of the last epoch stay.

    Args:
        dataset: Its split `train` is used.
        epochs: How many.
        batch_size: Pictures a step, at most.
        lr: Learning rate at its highest.
        weight_decay: Fraction of each kernel taken away a step, times the rate.
        seed: Of the order of the pictures.
    """
    from cnnkit.training.pipeline import Batches

    def train(model: Any, callbacks: list[Any]) -> None:
        tf_keras = _libraries()[1]
        batches = Batches(*dataset.arrays("train"), model.output_shape[-1], batch_size, seed)

        base: Any = tf_keras.utils.Sequence

        class Sequence(base):
            epoch, chosen = 0, batches.indices(0)

            def __len__(self) -> int:
                return len(batches)

            def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
                x, y = batches.of(self.chosen[index])
                return x.astype(np.float32), y

            def on_epoch_end(self) -> None:
                self.epoch += 1
                self.chosen = batches.indices(self.epoch)

        rates = tf_keras.optimizers.schedules.CosineDecay(lr, len(batches) * epochs)
        optimizer = tf_keras.optimizers.AdamW(rates, weight_decay=weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
        model.compile(
            optimizer,
            tf_keras.losses.CategoricalCrossentropy(from_logits=not _ends_in_softmax(model)),
        )
        model.fit(Sequence(), epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)

    return train


def _libraries() -> tuple[Any, Any]:
    """Returns TFMOT and Keras 2.

    Raises:
        UsageError: If they are not installed.
    """
    import tensorflow as tf

    tf.keras.version  # noqa: B018 - looked up lazily: from here on it is Keras 3
    before = os.environ.get(_LEGACY)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TFMOT asks distutils for versions
            import tensorflow_model_optimization as tfmot
            import tf_keras
    except ImportError as error:
        raise UsageError(
            "TensorFlow Model Optimization is not installed",
            todo="install it with `pip install '.[tfmot]'`",
        ) from error
    finally:
        # TFMOT sets it, and processes started from here would have another `tf.keras`.
        if before is None:
            os.environ.pop(_LEGACY, None)
        else:
            os.environ[_LEGACY] = before
    return tfmot, tf_keras


def _layers(graph: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the layers that compute, nested models opened, with names that are free."""
    seen = set()
    for node in nodes(graph):
        layer = node.operation
        if not node.input_tensors or id(layer) in seen or type(layer).__name__ == _IDENTITY:
            continue
        seen.add(id(layer))
        inner = graph_of(layer)
        if inner is None:
            yield prefix + layer.name, layer
        else:
            yield from _layers(inner, f"{prefix}{layer.name}_")


def _layer(kind: Any, name: str, layer: keras.layers.Layer) -> Any:
    """Returns the Keras 2 layer with the arguments of one of Keras 3."""
    known = {*_ALWAYS, *inspect.signature(kind.__init__).parameters}
    renamed = _RENAMED.get(type(layer).__name__, {})
    config = {
        renamed.get(key, key): value
        for key, value in layer.get_config().items()
        # Weights are copied. What Keras 2 does not know must be left at nothing.
        if not key.endswith("_initializer") and (value or renamed.get(key, key) in known)
    }
    config |= {"name": name, "dtype": layer.dtype_policy.name}
    try:
        return kind.from_config(config)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "Keras 2 does not know an argument of this layer",
            where=f"{name} ({type(layer).__name__})",
            received=str(error).splitlines()[0],
        ) from error


def _run(graph: Any, inputs: list[Any], twins: dict[int, Any], probes: list[Any]) -> list[Any]:
    """Returns the outputs of a Keras 3 graph whose layers are replaced by their twins."""
    tensors = dict(zip(map(id, graph.inputs), inputs, strict=True))
    for node in nodes(graph):
        layer, arguments = node.operation, node.arguments
        if not node.input_tensors:
            continue
        args, kwargs = keras.tree.map_structure(
            lambda t: tensors.get(id(t), t), (arguments.args, arguments.kwargs)
        )
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        inner = graph_of(layer)
        if type(layer).__name__ == _IDENTITY:
            outputs = keras.tree.flatten(args)[:1]
        elif inner is None:
            outputs = [twins[id(layer)](*args, **kwargs)]
        elif kwargs:
            raise UsageError(
                "A model inside the model is called in a way that Keras 2 cannot follow",
                where=layer.name,
                received=", ".join(f"{key}={value}" for key, value in kwargs.items()),
            )
        else:
            outputs = _run(inner, keras.tree.flatten(args), twins, [])
        probes.append((layer.name, node.output_tensors[0], outputs[0]))
        tensors.update(zip(map(id, node.output_tensors), outputs, strict=True))
    return [tensors[id(t)] for t in graph.outputs]


def _compare(model: keras.Model, image: Any, probes: list[tuple[str, Any, Any]]) -> None:
    """Raises UsageError for the first layer that is something else in Keras 2.

    Its hard sigmoid, for one, has another slope.
    """
    names, ours, theirs = map(list, zip(*probes, strict=True))
    x = np.random.default_rng(0).uniform(-1, 1, (2, *model.input_shape[1:])).astype(np.float32)
    ours = keras.tree.flatten(keras.Model(model.inputs[0], ours)(x, training=False))
    tf_keras = _libraries()[1]
    theirs = keras.tree.flatten(tf_keras.Model(image, theirs)(x, training=False))
    for name, a, b in zip(names, ours, theirs, strict=True):
        want = np.asarray(keras.ops.convert_to_numpy(a), np.float32)
        far = float(np.abs(want - np.asarray(b, np.float32)).max())
        if far > _TOLERANCE * max(1.0, float(np.abs(want).max())):
            raise UsageError(
                "Keras 2 computes something else",
                where=f"{name} ({type(model.get_layer(name)).__name__})",
                received=f"a difference of {far:.1g}",
            )


def _restored(model: keras.Model, trained: Any) -> keras.Model:
    """Returns a copy of `model` with the weights that its layers have in a Keras 2 model."""
    from export.pruning.kernels import copied

    weights = {layer.name: layer.get_weights() for layer in trained.layers}
    for layer in trained.layers:
        if inner := getattr(layer, "layer", None):  # its wrapper has weights of its own too
            weights[inner.name] = [
                w.numpy() for w in layer.weights if w.name.startswith(f"{inner.name}/")
            ]
    plain = copied(model)
    for name, layer in _layers(graph_of(plain)):
        if layer.weights:
            layer.set_weights(weights[name])
    return plain


def _is_wrapped(layer: Any) -> bool:
    return hasattr(layer, "pruning_step")


def _ends_in_softmax(model: Any) -> bool:
    last = getattr(model.layers[-1], "layer", model.layers[-1])
    activation = getattr(last, "activation", None)
    return type(last).__name__ == _END or getattr(activation, "__name__", "") == "softmax"


def _converted(model: Any) -> bytes:
    """Returns the TFLite file of a model with fake quantization, for one picture at a time."""
    import tensorflow as tf

    from export.formats.metadata import INPUT
    from export.formats.metadata import OUTPUT

    spec = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, name=INPUT)
    traced = tf.function(
        lambda image: {OUTPUT: model(image, training=False)}, input_signature=[spec]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [traced.get_concrete_function()], model
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()
