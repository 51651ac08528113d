"""What all networks have in common, through `build`."""

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


def test_the_table_is_the_registry():
    for module in set(NAMES.values()):
        __import__(module)
    assert {name: registry.get("model", name).__module__ for name in registry.names("model")} == (
        NAMES
    )


def test_the_table_needs_no_keras():
    code = "import sys, cnnkit.models; sys.exit(bool({'keras', 'tensorflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("shape", [(4, 4, 1), (8, 8, 1), (13, 8, 3), (96, 96, 3)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_from_image_to_logits_at_any_sensible_size(name, shape):
    model = build(name, shape, 3, width=0.1)
    assert (model.name, model.inputs[0].name, model.layers[-1].name) == (name, "image", "logits")
    assert model.layers[-1].activation is keras.activations.linear
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    y = np.asarray(model(x, training=False))
    assert y.shape == (2, 3)
    assert np.abs(y[0] - y[1]).min() > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_has_a_fixed_name(name):
    first, second = (build(name, (16, 16, 3), 3, width=0.1) for _ in range(2))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]


@pytest.mark.parametrize("name", [n for n in NAMES if n != "lenet300"])
@pytest.mark.parametrize("shape", [(3, 8, 1), (8, 3, 1)], ids=str)
def test_too_small(name, shape):
    with pytest.raises(UsageError) as error:
        build(name, shape, 10)
    assert str(error.value) == (
        f"Cannot build model {name!r}: `input_shape` of {name} must be (height, width, channels) "
        f"with a height and width of at least 4. Received: input_shape={shape}."
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


def test_an_unknown_name_gets_the_closest():
    with pytest.raises(UsageError, match=r"Unknown model 'lenet50'\. Closest: lenet5, "):
        models.build("lenet50", (28, 28, 1), 10)
