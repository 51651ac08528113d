import zipfile

import h5py
import keras
import numpy as np
import pytest

from cnnkit.errors import UsageError
from cnnkit.training.network import build
from cnnkit.training.pretrained import load_weights
from cnnkit.training.recipe import resolve
from tests.contracts.parts import perturb
from tests.training.pictures import Pictures
from tests.training.test_layer_rates import Notes


def net(classes=3, prefix="", *, dropout=True):
    layers = keras.layers
    x = image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, name=f"{prefix}first")(x)
    x = layers.BatchNormalization(name=f"{prefix}norm")(x)
    x = layers.Flatten(name=f"{prefix}flatten")(x)
    x = layers.Dropout(0.5, name=f"{prefix}drop")(x) if dropout else x
    return keras.Model(image, layers.Dense(classes, name=f"{prefix}logits")(x))


def saved(model, path):
    keras.utils.set_random_seed(1)
    perturb(model)
    weights = path.name.endswith(".weights.h5")
    (model.save_weights if weights else model.save)(path)
    return path


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_all_weights_by_name(name, tmp_path):
    source, target = net(), net()
    loaded = load_weights(target, saved(source, tmp_path / name))
    assert (loaded.by, len(loaded.matched)) == ("name", 8)
    assert str(loaded) == "8 of 8 weights by name"
    for a, b in zip(source.get_weights(), target.get_weights(), strict=True):
        if a.dtype == "float32":
            np.testing.assert_array_equal(a, b)


def test_other_shapes_and_names_are_told_and_left_alone(tmp_path):
    source, target = net(classes=5), net(dropout=False)
    target.get_layer("norm").name = "other"
    before = [w.copy() for w in target.get_layer("logits").get_weights()]
    loaded = load_weights(target, saved(source, tmp_path / "m.keras"))
    assert loaded.matched == ["first/0", "first/1"]
    assert loaded.mismatched == ["logits/0 (144, 5) for (144, 3)", "logits/1 (5,) for (3,)"]
    assert loaded.missing == [f"other/{i}" for i in range(4)]
    assert loaded.unused == [f"norm/{i}" for i in range(4)]
    assert "2 of 8 weights by name; mismatched: logits/0 (144, 5)" in str(loaded)
    np.testing.assert_array_equal(target.get_layer("first").kernel, source.layers[1].kernel)
    for a, b in zip(before, target.get_layer("logits").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_names_altogether_go_by_position(tmp_path):
    source, target = net(), net(prefix="my_")
    loaded = load_weights(target, saved(source, tmp_path / "m.weights.h5"))
    assert (loaded.by, len(loaded.matched)) == ("position", 8)
    np.testing.assert_array_equal(target.layers[-1].kernel, source.layers[-1].kernel)


def test_a_compiled_model_has_more_than_weights(tmp_path):
    source = net()
    source.compile("adam", "mse")
    source.fit(np.zeros((4, 8, 8, 1)), np.zeros((4, 3)), verbose=0)
    source.save(tmp_path / "m.keras")
    loaded = load_weights(net(), tmp_path / "m.keras")
    assert (len(loaded.matched), loaded.unused) == (8, [])


def test_no_code_of_the_file_is_run(tmp_path):
    image = keras.Input((8, 8, 1))
    x = keras.layers.Lambda(lambda x: x)(keras.layers.Conv2D(4, 3, name="first")(image))
    source = keras.Model(image, x)
    loaded = load_weights(net(), saved(source, tmp_path / "m.keras"))
    assert loaded.matched == ["first/0", "first/1"]


def test_numbers_elsewhere_on_the_disk_are_not_read(tmp_path):
    path = saved(net(), tmp_path / "m.weights.h5")
    (tmp_path / "secret").write_bytes(b"\1" * 144)
    with h5py.File(path, "r+") as file:
        group = file["layers/conv2d/vars"]
        del group["0"]
        group.create_dataset("0", (3, 3, 1, 4), "f4", external=[(str(tmp_path / "secret"), 0, 144)])
        del group["1"]
        group["1"] = h5py.ExternalLink(str(path), "/layers/dense/vars/1")
    assert "first/0" in load_weights(net(), path).missing


@pytest.mark.parametrize("name", ["no.keras", "bad.keras", "empty.keras", "bad.weights.h5"])
def test_unreadable_files_are_named(name, tmp_path):
    (tmp_path / "bad.keras").write_bytes(b"PK no")
    (tmp_path / "bad.weights.h5").write_bytes(b"no")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(UsageError, match=rf"No weights can be read: .*{name}"):
        load_weights(net(), tmp_path / name)


def test_a_file_of_another_network_is_refused(tmp_path):
    image = keras.Input((5,))
    source = keras.Model(image, keras.layers.EinsumDense("ab,bc->ac", 2)(image))
    with pytest.raises(UsageError, match="None of the weights in the file fits"):
        load_weights(net(), saved(source, tmp_path / "m.keras"))


class Colours:
    """Pictures for the smallest network of `keras.applications`."""

    image_shape, classes = (32, 32, 3), ["a", "b", "c"]

    def arrays(self, split):
        return np.zeros((3, 32, 32, 3), np.uint8), np.arange(3)


@pytest.mark.parametrize("file", ["m.weights.h5", "m.keras", "m.h5"])
def test_a_network_of_keras_from_a_local_file(file, tmp_path):
    source = keras.applications.MobileNet((32, 32, 3), 0.25, weights=None, classes=7)
    path, reporter = saved(source, tmp_path / file), Notes()
    values = {"name": "keras.applications.MobileNet", "width": 0.25, "pretrained": str(path)}
    model = build(resolve(model=values).recipe, Colours(), reporter)
    trunk = {layer.name: layer for layer in model.layers if layer.name != "logits"}
    for layer in source.layers:
        if layer.name in trunk:
            for a, b in zip(layer.get_weights(), trunk[layer.name].get_weights(), strict=True):
                np.testing.assert_array_equal(a, b)
    assert "135 of 137 weights by name; missing: logits/0, logits/1" in reporter.notes[0]
    np.testing.assert_allclose(model.get_layer("pixels").offset, [-1, -1, -1])


def test_weights_that_expect_bgr_are_reversed_once(tmp_path):
    source = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    path = saved(source, tmp_path / "m.weights.h5")
    values = {"name": "keras.applications.VGG16", "pretrained": str(path)}
    model = build(resolve(model=values).recipe, Colours(), Notes())
    kernel = np.array(source.get_layer("block1_conv1").kernel)[:, :, ::-1]
    np.testing.assert_array_equal(model.get_layer("block1_conv1").kernel, kernel)
    model.save_weights(path)
    again = build(resolve(model=values).recipe, Colours(), Notes())
    np.testing.assert_array_equal(again.get_layer("block1_conv1").kernel, kernel)


def test_only_networks_of_keras_have_weights_of_imagenet():
    recipe = resolve(model={"name": "resnet8", "pretrained": "imagenet"}).recipe
    with pytest.raises(UsageError, match=r"model\.name=resnet8.*keras\.applications\.MobileNetV2"):
        build(recipe, Pictures(), Notes())
