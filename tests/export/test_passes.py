import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from cnnkit import models
from cnnkit.errors import UsageError
from export import passes
from export.pipeline import PassData
from export.result import Result
from export.wrap import as_classifier


@pytest.mark.parametrize(
    "text",
    ["prune-filters", "prune-filters:ratio=0.5", "prune-filters:ratio=0.5,scope=global,round_to=8"],
)
def test_a_pass_is_its_text(text):
    parsed = passes.parse(text)
    assert str(parsed) == text
    assert passes.parse(str(parsed)) == parsed


def test_defaults_are_left_out():
    assert str(passes.parse("prune-filters:ratio=0.3,criterion=l1")) == "prune-filters"


def test_a_pass_applies():
    result = passes.parse("prune-filters:ratio=0.5").apply(models.build("lenet300", (4, 4, 1), 3))
    assert isinstance(result, Result)
    assert result.model.get_layer("fc1").units == 150


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune-filter", "Unknown pass 'prune-filter'. Closest: prune-filters"),
        ("", "Unknown pass ''. Closest: "),
        (
            "prune-filters:ration=0.5",
            "Unknown option of pass 'prune-filters' 'ration'. Closest: ratio,",
        ),
        (
            "prune-filters:ratio=2",
            "Wrong value of `ratio` of pass 'prune-filters'. "
            "Expected a number in [0, 1), default 0.3. Received 2.",
        ),
        ("prune-filters:ratio=much", "Expected a number in [0, 1), default 0.3. Received much."),
        ("prune-filters:ratio=nan", "Expected a number in [0, 1), default 0.3. Received nan."),
        ("prune-filters:scope=all", "Expected layer or global, default layer. Received all."),
        ("prune-filters:round_to=1.5", "Expected an integer >= 1, default 1. Received 1.5."),
        (
            "prune-filters:ratio",
            "Expected key=value, each key once. The keys are: ratio, of, criterion",
        ),
        ("prune-filters:ratio=0.1,ratio=0.2", "Expected key=value, each key once."),
    ],
)
def test_errors_say_what_is_right(text, message):
    with pytest.raises(UsageError) as error:
        passes.parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize("name", passes.PASSES)
def test_every_pass_has_its_parts(name):
    module = importlib.import_module(passes.PASSES[name])
    assert callable(module.apply)
    assert str(passes.Pass(name, module.Config())) == name
    assert all(field.description for field in module.Config.__pydantic_fields__.values())


def test_parsing_does_not_import_tensorflow():
    texts = [f"passes.parse({name!r})" for name in passes.PASSES]
    code = f"import sys; from export import passes; {'; '.join(texts)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "keras", "sklearn"} & set(run.stdout.split())


@keras.saving.register_keras_serializable("test_passes")
class Twice(layers.Layer):
    """A layer that no pass knows."""

    def call(self, x):
        return 2 * x


def classifier(dtype="float32", own=False, shared=False):
    x = image = keras.Input((8, 8, 1), name="picture")
    x = layers.Conv2D(8, 3, activation="relu", padding="same", dtype=dtype, name="first")(x)
    x = Twice(dtype=dtype, name="twice")(x) if own else x
    second = layers.Conv2D(8, 3, activation="relu", padding="same", dtype=dtype, name="second")
    x = second(second(x)) if shared else second(x)
    x = layers.BatchNormalization(dtype=dtype, name="norm")(x)
    x = layers.GlobalAveragePooling2D(dtype=dtype, name="mean")(x)
    return keras.Model(image, layers.Dense(3, dtype=dtype, name="logits")(x), name="theirs")


@pytest.mark.parametrize("name", passes.PASSES)
@pytest.mark.parametrize(
    "kind",
    [
        {"dtype": "mixed_float16"},
        {"dtype": "mixed_bfloat16"},
        {"dtype": "float16"},
        {"own": True},
        {"shared": True},
    ],
    ids=str,
)
def test_unusual_models_go_through_every_pass(name, kind):
    model, _ = as_classifier(classifier(**kind), pixel_range="0-255")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (8, 8, 8, 1)).astype("float32")
    data = PassData(x, rng.integers(0, 3, 8), lambda net, **_: net, lambda net, **_: net)
    # What its zeros save in files takes long to measure.
    text = f"{name}:measure=false" if name == "prune-weights" else name
    result = passes.parse(text).apply(model, data)
    scores = np.asarray(result.model(x))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)
    kept = {layer.name: layer.dtype_policy.name for layer in result.model.layers}
    before = {layer.name: layer.dtype_policy.name for layer in model.layers}
    assert kept.keys() & before.keys() >= {"norm", "mean", "probabilities"}
    assert all(kept[name] == before[name] for name in kept.keys() & before.keys())
