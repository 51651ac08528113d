"""Whether a network fits a target, told before it is trained."""

from dataclasses import replace

import keras
import pytest
from keras import layers

from cnnkit import models
from cnnkit.errors import GateError
from cnnkit.training.network import deployable
from cnnkit.training.recipe import resolve
from cnnkit.training.reporter import Reporter
from export import fit
from export import targets


def network(width=1.0, shape=(32, 32, 3)):
    net = models.build("resnet8", shape, 10, width=width)
    return deployable(net, [127.5] * shape[2], [127.5] * shape[2])


def with_gelu():
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, activation="gelu", name="first")(image)
    x = layers.Dense(3, activation="softmax", name="scores")(layers.Flatten(name="flat")(x))
    return keras.Model(image, x)


class Heard(Reporter):
    def __init__(self):
        self.notes, self.warnings = [], []

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)


def test_what_fits():
    found = fit.check(network(), targets.parse("tflm:flash=100KB,ram=64KB"))
    assert found.ok
    assert found.format == "micro"
    assert 80_000 < found.size_bytes < 100_000
    assert 49_152 < found.ram_bytes < 64_000
    assert (found.remedies, found.lacking, found.slow) == ((), {}, {})


def test_what_would_make_it_fit():
    """The remedies are taken, and then it fits."""
    board = targets.parse("tflm:flash=40KB,ram=30KB")
    found = fit.check(network(), board)
    assert [text.split(" ")[0] for text in found.problems] == ["the", "it"]
    assert "a width of 0.6 times the present one" in found.remedies[0]
    assert "`--pass prune-filters:ratio=0.4`" in found.remedies[0]
    assert "pictures of 23x23" in found.remedies[1]
    assert fit.check(network(0.6, (22, 22, 3)), board).ok


def test_layers_whose_ops_a_target_lacks_are_named():
    model = with_gelu()
    found = fit.check(model, targets.parse("tflm"))
    assert found.lacking == {"first.activation": ("GELU",)}
    assert found.problems == ("tflm has no GELU (first.activation)",)
    assert found.remedies == ("replace first.activation",)
    assert fit.check(model, targets.parse("litert-cpu")).ok
    assert fit.check(model, targets.parse("ethos-u55")).ok
    coral = fit.check(model, targets.parse("edgetpu"))
    assert coral.ok
    assert coral.slow == {"first.activation": ("GELU",)}
    assert coral.notes == ("GELU runs on the CPU (first.activation)",)


@pytest.mark.parametrize(
    ("interpolation", "lacking"), [("nearest", {}), ("bicubic", {"up": ("bicubic",)})]
)
def test_pictures_that_grow(interpolation, lacking):
    image = keras.Input((8, 8, 3), name="image")
    x = layers.UpSampling2D(2, interpolation=interpolation, name="up")(image)
    model = keras.Model(image, layers.GlobalAveragePooling2D(name="mean")(x))
    assert fit.check(model, targets.parse("tflm")).lacking == lacking


def test_a_layer_without_a_rule_is_not_vouched_for():
    image = keras.Input((8, 8, 3), name="image")
    x = keras.ops.erf(layers.Conv2D(4, 3, name="first")(image))
    model = keras.Model(image, layers.Dense(3, name="scores")(layers.Flatten(name="flat")(x)))
    found = fit.check(model, targets.parse("tflm"))
    assert [op for ops in found.lacking.values() for op in ops] == ["Erf"]


def test_formats_with_ops_of_their_own():
    image = keras.Input((8, 8, 3), name="image")
    x = keras.ops.erf(layers.Conv2D(4, 3, name="first")(image))
    model = keras.Model(image, layers.Dense(3, name="scores")(layers.Flatten(name="flat")(x)))
    for target, format_ in (("ort-cpu", "onnx-int8"), ("tf-serving", "savedmodel")):
        found = fit.check(model, targets.parse(target))
        assert (found.ok, found.format, found.memory) == (True, format_, "activations")
        assert [note.partition(" (")[0] for note in found.notes] == ["Erf is not foretold"]


def test_what_would_make_a_savedmodel_fit():
    found = fit.check(network(), targets.parse("tf-serving:flash=500KB"))
    assert "a width of 0.85 times the present one" in found.remedies[0]
    assert fit.check(network(0.85), targets.parse("tf-serving:flash=500KB")).ok


def test_labels_are_stored_in_the_file():
    sizes = [
        fit.check(network(), targets.parse("tflm"), labels).size_bytes
        for labels in (["a"] * 10, ["ä" * 50] * 10)
    ]
    assert sizes[1] - sizes[0] == 10 * (100 - 1)


def test_large_weights_on_a_coral():
    coral = replace(targets.TARGETS["edgetpu"], fast_bytes=50_000)
    found = fit.check(network(), coral)
    assert found.ok
    assert "weights are fetched for each picture" in found.notes[-1]


@pytest.mark.parametrize(
    ("target", "passes", "how"),
    [
        ("none", True, "silent"),
        ("tflm:flash=100KB", True, "note"),
        ("tflm:flash=40KB", True, "warning"),
        ("tflm:flash=40KB", False, "error"),
    ],
)
def test_before_training(target, passes, how):
    sets = [f"export.target={target}", *([] if passes else ["compress.passes=[]"])]
    recipe, heard = resolve(sets=sets).recipe, Heard()
    if how == "error":
        with pytest.raises(GateError, match=r"does not fit tflm.*flash 40,000.*prune-filters"):
            fit.require(network(), recipe, heard)
        return
    fit.require(network(), recipe, heard)
    assert (len(heard.notes), len(heard.warnings)) == (how == "note", how == "warning")


def test_ops_that_are_lacking_are_refused_whatever_passes_there_are():
    recipe = resolve(sets=["export.target=tflm"]).recipe
    with pytest.raises(GateError, match=r"tflm has no GELU \(first.activation\)"):
        fit.require(with_gelu(), recipe, Heard())


def test_a_manifest_can_hold_it():
    found = fit.check(network(), targets.parse("tflm:ram=30KB")).to_dict()
    assert (found["name"], found["ram_limit"], found["flash_limit"]) == ("tflm", 30_000, None)
    assert len(found["problems"]) == 1
