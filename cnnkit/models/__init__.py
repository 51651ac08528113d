"""Networks by name. Nothing here imports TensorFlow before a network is built."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING
from typing import Any

from cnnkit import registry
from cnnkit.errors import UsageError

if TYPE_CHECKING:
    import keras

# Module of a family -> the models that it registers. A new family is one line here.
FAMILIES: dict[str, tuple[str, ...]] = {
    "alexnet": ("alexnet", "alexnet_grouped"),
    "all_cnn": ("all_cnn_c",),
    "compact_dnn": ("compact_dnn",),
    "highway": ("highway10",),
    "lenet": ("lenet300", "lenet5", "lenet5_caffe"),
    "nin": ("nin",),
    "resnet": (
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        *("plain18", "plain34"),
    ),
    "resnet_cifar": (
        *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
        *("plain20", "plain32", "plain44", "plain56"),
    ),
    "squeezenet": ("squeezenet1_0", "squeezenet1_1"),
    "vgg": (
        *("vgg11", "vgg13", "vgg16", "vgg19"),
        *("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    ),
}
APPLICATIONS = "keras.applications."
NAMES: dict[str, str] = {
    name: f"cnnkit.models.{family}" for family, members in FAMILIES.items() for name in members
}


def build(
    name: str, input_shape: tuple[int, int, int], classes: int, **options: Any
) -> keras.Model:
    """Returns a fresh functional model from `image` to `logits`.

    Args:
        name: One of `NAMES`, or such as `keras.applications.MobileNetV2`.
        input_shape: `(height, width, channels)` of the pictures.
        classes: Number of outputs, at least 2.
        **options: Keyword-only arguments of the model's own function, such as `width`.

    Raises:
        UsageError: If the name, an option or a value is not one that the model accepts.

    Example:
        >>> build("lenet5_caffe", (28, 28, 1), 10).count_params()
        431080
    """
    if name.startswith(APPLICATIONS):
        from cnnkit.models import applications

        return applications.build(name, input_shape, classes, **options)
    importlib.import_module(NAMES[registry.known("model", name, NAMES)])
    make = registry.get("model", name)
    parameters = inspect.signature(make).parameters.values()
    accepted = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if unknown := [option for option in options if option not in accepted]:
        raise UsageError(
            f"Unknown option of model {name!r}",
            where=", ".join(unknown),
            expected=", ".join(accepted) or "none",
        )
    try:
        return make(input_shape, classes, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"Cannot build model {name!r}", where=error) from error
