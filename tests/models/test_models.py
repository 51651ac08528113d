"""What all networks have in common, through `build`."""

import importlib
import inspect
import math
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from cnnkit import models
from cnnkit import registry
from cnnkit.errors import UsageError
from cnnkit.models import NAMES
from cnnkit.models import build

# Family -> the smallest height and width.
SMALLEST = {
    "alexnet": 67,
    "all_cnn": 9,
    "compact_dnn": 32,
    "highway": 8,
    "lenet": 4,
    "nin": 4,
    "resnet": 32,
    "resnet_cifar": 4,
    "squeezenet": 35,
    "vgg": 32,
}
ANY_SIZE = "lenet300"


def smallest(name):
    if name == "squeezenet1_1":
        return 31
    return 1 if name == ANY_SIZE else SMALLEST[NAMES[name].rsplit(".", 1)[-1]]


def function(name):
    importlib.import_module(NAMES[name])
    return registry.get("model", name)


def test_the_table_is_the_registry():
    for module in set(NAMES.values()):
        __import__(module)
    assert {name: registry.get("model", name).__module__ for name in registry.names("model")} == (
        NAMES
    )


def test_the_table_needs_no_keras():
    code = "import sys, cnnkit.models; sys.exit(bool({'keras', 'tensorflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def check(name, shape, width):
    model = build(name, shape, 3, width=width)
    assert (model.name, model.inputs[0].name, model.layers[-1].name) == (name, "image", "logits")
    linear = keras.activations.linear
    assert getattr(model.layers[-1], "activation", linear) is linear
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    y = np.asarray(model(x, training=False))
    assert y.shape == (2, 3)
    assert np.abs(y[0] - y[1]).min() > 0


@pytest.mark.parametrize("name", NAMES)
def test_from_image_to_logits_at_the_smallest_size(name):
    check(name, (smallest(name) + 3, smallest(name), 3), 0.2)


@pytest.mark.parametrize("shape", [(4, 4, 1), (8, 8, 1), (13, 8, 3), (96, 96, 3)], ids=str)
@pytest.mark.parametrize("name", ["lenet300", "lenet5", "lenet5_caffe", "resnet14", "nin"])
def test_from_image_to_logits_at_any_sensible_size(name, shape):
    check(name, shape, 0.1)


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_has_a_fixed_name(name, symbolic):
    size = smallest(name)
    first, second = (symbolic(name, (size, size, 3), 3) for _ in range(2))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_says_the_number_of_parameters(name, symbolic):
    documented = function(name).__doc__.splitlines()[0]
    stated, trainable = re.search(r"([\d,]+)( trainable)? parameters", documented).groups()
    defaults = [p.default for p in inspect.signature(function(name)).parameters.values()]
    model = symbolic(name, *defaults[:2])
    weights = model.trainable_weights if trainable else model.weights
    assert f"{sum(math.prod(weight.shape) for weight in weights):,}" == stated


@pytest.mark.parametrize("name", NAMES)
def test_documentation(name):
    text = inspect.getdoc(function(name))
    parts = [text.index(f"\n\n{part}:\n") for part in ("Args", "Raises", "Reference")]
    assert parts == sorted(parts)
    assert "Differs: " in text
    parameters = list(inspect.signature(function(name)).parameters)
    assert re.findall(r"^    (\w+): ", text[parts[0] : parts[1]], re.MULTILINE) == parameters


@pytest.mark.parametrize("name", [name for name in NAMES if name != ANY_SIZE])
def test_too_small(name):
    size = smallest(name)
    for shape in ((size - 1, 200, 1), (200, size - 1, 1)):
        with pytest.raises(UsageError) as error:
            build(name, shape, 10)
        assert str(error.value) == (
            f"Cannot build model {name!r}: `input_shape` of {name} must be (height, width, "
            f"channels) with a height and width of at least {size}. Received: "
            f"input_shape={shape}."
        )


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (((28, 28), 10), {}, r"must be \(height, width, channels\).*input_shape=\(28, 28\)"),
        (((28, 28, None), 10), {}, r"must be \(height, width, channels\)"),
        (((28, 28, 0), 10), {}, r"must be \(height, width, channels\)"),
        ((28, 10), {}, r"must be \(height, width, channels\).*input_shape=28"),
        (((28, 28, 1), 1), {}, r"`classes` of lenet5 must be an integer >= 2.*classes=1"),
        (((28, 28, 1), 10.0), {}, r"`classes` of lenet5 must be an integer >= 2.*classes=10\.0"),
        (((28, 28, 1), 10), {"width": 0}, r"`width` of lenet5 must be in \(0\.0, inf\).*width=0"),
        (((28, 28, 1), 10), {"width": "2"}, r"`width` of lenet5 must be a number.*width='2'"),
        (((28, 28, 1), 10), {"depth": 3}, r"Unknown option of model 'lenet5': depth.*width"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(UsageError, match=message):
        build("lenet5", *arguments, **options)


def test_bad_options_of_one_family():
    with pytest.raises(UsageError, match=r"`shortcut` of basic_block.*'A', 'B', 'none'.*'C'"):
        build("resnet8", (8, 8, 3), 10, shortcut="C")
    with pytest.raises(UsageError, match=r"`gate_bias` of highway_conv must be in \[-10\.0, 0"):
        build("highway10", (8, 8, 1), 10, gate_bias=3)


def test_an_unknown_name_gets_the_closest():
    with pytest.raises(UsageError, match=r"Unknown model 'lenet50'\. Closest: lenet5, "):
        models.build("lenet50", (28, 28, 1), 10)
