import json
import sys
import zipfile

import keras
import numpy as np
import pytest

from cnnkit.errors import UsageError
from cnnkit.models.saving import load_model
from cnnkit.models.saving import save_model


def net(*layers):
    return keras.Sequential(
        [keras.Input((4, 4, 1)), *layers, keras.layers.Flatten(), keras.layers.Dense(3, name="end")]
    )


class Odd(keras.layers.Layer):
    def call(self, x):
        return x


@pytest.fixture
def parts(tmp_path):
    """The members of a good model file."""
    net().save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def refused(path):
    with pytest.raises(UsageError) as caught:
        load_model(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert len(message) < 500
    return message


def test_round_trip_drops_compile_state(tmp_path):
    model = net()
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype("float32")
    model.fit(x, np.zeros((5, 3)), verbose=0)
    assert save_model(model, tmp_path / "deep" / "m.keras") == tmp_path / "deep" / "m.keras"
    loaded = load_model(tmp_path / "deep" / "m.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert model.compiled
    assert not loaded.compiled
    with zipfile.ZipFile(tmp_path / "deep" / "m.keras") as archive:
        assert not json.loads(archive.read("config.json")).get("compile_config")
        assert b"optimizer" not in archive.read("model.weights.h5")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["m.keras"]


def test_a_failing_save_keeps_the_old_file(tmp_path):
    class Broken(keras.layers.Layer):
        def call(self, x):
            return x

        def get_config(self):
            raise RuntimeError("broken")

    path = save_model(net(), tmp_path / "m.keras")
    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        save_model(net(Broken()), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.keras"]


def test_old_h5_files_load(tmp_path):
    model = net()
    model.save(tmp_path / "m.h5")
    x = np.ones((1, 4, 4, 1), "float32")
    np.testing.assert_array_equal(load_model(tmp_path / "m.h5")(x), model(x))


def test_what_is_no_model_file(tmp_path):
    assert "No such model file" in refused(tmp_path / "missing.keras")
    assert "Not a model file" in refused(tmp_path)
    (tmp_path / "text.keras").write_text("hello")
    assert "no zip archive" in refused(tmp_path / "text.keras")
    (tmp_path / "empty.keras").touch()
    assert "no zip archive" in refused(tmp_path / "empty.keras")
    (tmp_path / "text.h5").write_text("hello")
    assert "damaged" in refused(tmp_path / "text.h5")
    (tmp_path / "m.txt").write_text("hello")
    assert "'.txt'" in refused(tmp_path / "m.txt")
    assert "without config.json" in refused(pack(tmp_path / "zip.keras", {"a": b"b"}))


def test_damaged_files(tmp_path, parts):
    whole = (tmp_path / "good.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    assert "the end is missing" in refused(tmp_path / "cut.keras")
    changes = {
        "json": {"config.json": b"{oops"},
        "list": {"config.json": b"[1]"},
        "weights": {"model.weights.h5": b"zzz"},
        "short": {"model.weights.h5": parts["model.weights.h5"][:3000]},
        "shape": {"config.json": parts["config.json"].replace(b'"units": 3', b'"units": 7')},
    }
    for name, change in changes.items():
        assert "damaged" in refused(pack(tmp_path / f"{name}.keras", {**parts, **change}))


def test_a_layer_alone_is_no_model(tmp_path, parts):
    config = {"module": "keras.layers", "class_name": "ReLU", "config": {"name": "r"}}
    members = {**parts, "config.json": json.dumps({**config, "registered_name": None})}
    assert "Received ReLU" in refused(pack(tmp_path / "relu.keras", members))


@pytest.mark.parametrize(
    "layer", [keras.layers.Lambda, keras.layers.Activation], ids=["Lambda", "Activation"]
)
@pytest.mark.filterwarnings("ignore")
def test_python_code_is_refused_and_explained(tmp_path, layer):
    net(layer(lambda x: x * 2)).save(tmp_path / "m.keras")
    assert "Lambda" in refused(tmp_path / "m.keras")


def test_unknown_layers_are_named(tmp_path):
    net(Odd()).save(tmp_path / "m.keras")
    assert "'Odd'" in refused(tmp_path / "m.keras")


def test_endless_nesting_is_refused(tmp_path, parts):
    depth = 100 * sys.getrecursionlimit()
    config = b'{"a":' * depth + b"1" + b"}" * depth
    message = refused(pack(tmp_path / "deep.keras", {**parts, "config.json": config}))
    assert "nested too deeply" in message
