"""The network of a recipe, from raw pixels to probabilities."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from cnnkit import models
from cnnkit.errors import UsageError
from cnnkit.models import applications
from cnnkit.training.devices import dtype_policy
from cnnkit.training.devices import policy_of
from cnnkit.training.initialize import initialize
from cnnkit.training.pretrained import load_weights

if TYPE_CHECKING:
    from cnnkit.data import Dataset
    from cnnkit.training.recipe import Recipe
    from cnnkit.training.reporter import Reporter


def build(recipe: Recipe, dataset: Dataset, reporter: Reporter) -> keras.Model:
    """Returns the network of a recipe, from raw pixels to probabilities, as training begins."""
    keras.utils.set_random_seed(recipe.train.seed)
    model = network(recipe, dataset, policy_of(recipe.device.mixed_precision))
    initialize(model, recipe.model.init, dataset.arrays("train")[0], recipe.train.seed)
    if recipe.model.pretrained != "none":
        _pretrain(model, recipe, reporter)
    return model


def network(recipe: Recipe, dataset: Dataset, policy: str) -> keras.Model:
    """Returns the network of a recipe with fresh weights, computing under a dtype policy."""
    with dtype_policy(policy):
        net = models.build(
            recipe.model.name, dataset.image_shape, len(dataset.classes), width=recipe.model.width
        )
    if recipe.model.name.startswith(models.APPLICATIONS):
        return deployable(net, *applications.statistics(recipe.model.name))
    return deployable(net, *dataset.statistics())


def deployable(net: keras.Model, mean: Sequence[float], scale: Sequence[float]) -> keras.Model:
    """Returns `net` as a flat model from raw pixels `image` to `probabilities`.

    Computes `softmax(net((image - mean) / scale))`. The layers are copies.

    Args:
        net: Functional model from normalized pictures to logits.
        mean: Of each channel, in 0-255.
        scale: Standard deviation of each channel, positive.
    """
    copy = keras.models.clone_model(net, clone_function=_head_in_float32(net))
    copy.set_weights(net.get_weights())
    image = keras.Input(net.input_shape[1:], name="image", dtype="float32")
    x = keras.layers.Rescaling(
        [1 / s for s in scale],
        [-m / s for m, s in zip(mean, scale, strict=True)],
        name="pixels",
    )(image)
    # `call`, not the model itself: the copied layers land in one flat graph, not in a nested one.
    x = keras.layers.Softmax(name="probabilities", dtype="float32")(copy.call(x))
    flattened = keras.Model(image, x, name=net.name)
    # A last copy, whose layers have been called once: `layer.output` is then unambiguous.
    model = keras.models.clone_model(flattened)
    model.set_weights(flattened.get_weights())
    return model


def _head_in_float32(net: keras.Model) -> Callable[[keras.layers.Layer], keras.layers.Layer]:
    """Returns the copy of a layer; that of what makes the outputs computes in float32."""
    head = net.outputs[0]._keras_history.operation

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer is head and layer.compute_dtype != "float32":
            config["dtype"] = "float32"
        return type(layer).from_config(config)

    return copy


def _pretrain(model: keras.Model, recipe: Recipe, reporter: Reporter) -> None:
    name, source = recipe.model.name, recipe.model.pretrained
    ready = name.startswith(models.APPLICATIONS)
    if source == "imagenet":
        if not ready:
            raise UsageError(
                "No weights of ImageNet are published for this network",
                where=f"model.name={name}",
                expected="a network of keras.applications, such as keras.applications.MobileNetV2",
            )
        shape = model.input_shape[1:]
        with applications.imagenet(name, shape, recipe.model.width) as path:
            loaded = load_weights(model, path)
    else:
        loaded = load_weights(model, source)
    # Networks that were trained here have the head `logits`, and have seen RGB.
    theirs = not loaded.holds("logits")
    if ready and theirs and applications.reversed_channels(name):
        applications.reverse_first_kernel(model)
        reporter.note("the first kernel is reversed: its weights expect BGR, and pictures are RGB")
    reporter.note(f"{source}: {loaded}")
