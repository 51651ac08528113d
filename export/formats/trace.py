"""A Keras model as a TensorFlow function with stable names, for every converter."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from export.formats.metadata import INPUT
from export.formats.metadata import OUTPUT

if TYPE_CHECKING:
    import keras

SIGNATURE = "serving_default"
# Weights of a network of which no copies are made where it can be helped.
_MANY = 2**25
# From a concrete function to signatures that call it, each with the specification of its input.
Endpoints = Callable[[Any], dict[str, tuple[Callable[[Any], dict[str, Any]], Any]]]


def function(model: keras.Model, batch: int | None) -> Any:
    """Returns the inference of `model` as a concrete function `image` → `probabilities`."""
    import tensorflow as tf

    with _inlined():
        signature = [_spec(model, batch)]
        traced = tf.function(_inference(model), input_signature=signature, autograph=False)
        return traced.get_concrete_function()


def frozen_graph(traced: Any) -> Any:
    """Returns the graph of `function` as a protobuf with constants in place of the variables.

    `convert_variables_to_constants_v2` makes a function of it, which takes most of its time and
    memory.
    """
    from tensorflow.python.framework import convert_to_constants as constants

    data = constants._FunctionConverterDataInEager(traced, True, False)
    return constants._replace_variables_by_constants(data)[0]


def save_frozen(model: keras.Model, folder: Path, batch: int | None) -> Path:
    """Writes `function` with constants to `folder` as a SavedModel for the TFLite converter.

    Of a deep network it takes less time than `save`, which goes over its objects and variables
    several times. But TensorFlow makes many copies of the constants meanwhile, so that a network
    of many weights keeps its variables. The batch size is part of the signature: Keras'
    own export always makes it unknown, which leaves shape arithmetic in a TFLite file.
    """
    import tensorflow as tf

    with _resized():
        if model.count_params() > _MANY:
            return save(model, folder, batch)
        traced = function(model, batch)
    graph = frozen_graph(traced)
    image, scores = traced.inputs[0].name, traced.outputs[0].name

    def constant(x: Any) -> dict[str, Any]:
        return {OUTPUT: tf.import_graph_def(graph, {image: x}, [scores], name="")[0]}

    signature = [_spec(model, batch)]
    module = tf.Module()
    module.signature = tf.function(
        constant, input_signature=signature, autograph=False
    ).get_concrete_function()
    # Of constants, gradients cannot be saved, and no converter wants them.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(folder), module.signature, options)
    return folder


def save(
    model: keras.Model, folder: Path, batch: int | None, more: Endpoints | None = None
) -> Path:
    """Writes `model` to `folder` as a SavedModel with the signature `serving_default`.

    The batch size is part of the signature that is traced here, as in `save_frozen`.

    Args:
        model: One input, one output.
        folder: Where it goes.
        batch: The batch size, None for any.
        more: Makes further signatures from the traced inference: name to function and the
            specification of its input.
    """
    import keras

    archive = keras.export.ExportArchive()
    with _inlined():
        inference = archive.add_endpoint(
            SIGNATURE, _inference(model), input_signature=[_spec(model, batch)]
        )
        added = more(inference.get_concrete_function()) if more else {}
        for name, (endpoint, spec) in added.items():
            archive.add_endpoint(name, endpoint, input_signature=[spec])
        archive.write_out(str(folder), verbose=False)
    return folder


def _spec(model: keras.Model, batch: int | None) -> Any:
    import tensorflow as tf

    return tf.TensorSpec((batch, *model.input_shape[1:]), tf.float32, name=INPUT)


def _inference(model: keras.Model) -> Callable[[Any], dict[str, Any]]:
    return lambda image: {OUTPUT: model(image, training=False)}


@contextlib.contextmanager
def _inlined() -> Iterator[None]:
    """Traces nested functions into their caller.

    Keras compiles a grouped convolution with XLA in a function of its own. In a graph it would
    be a `StatefulPartitionedCall`, which tf2onnx cannot read and which TF Serving would compile
    anew for every batch size.
    """
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


@contextlib.contextmanager
def _resized() -> Iterator[None]:
    """Has rows and columns repeated by RESIZE_NEAREST_NEIGHBOR.

    Keras repeats them in a way of which the converter makes TILE, which TFLite Micro lacks.
    """
    import keras

    layer = keras.layers.UpSampling2D
    before = layer.call

    def call(self: Any, inputs: Any) -> Any:
        if (self.interpolation, self.data_format) != ("nearest", "channels_last"):
            return before(self, inputs)
        _, height, width, _ = keras.ops.shape(inputs)
        size = (height * self.size[0], width * self.size[1])
        return keras.ops.image.resize(inputs, size, "nearest", data_format="channels_last")

    layer.call = call
    try:
        yield
    finally:
        layer.call = before
