import json
import zipfile
import zlib

import keras
import numpy as np
import pytest
from keras import layers

from cnnkit.errors import CnnkitError
from cnnkit.errors import UsageError
from cnnkit.layers import BinaryConv2D
from cnnkit.layers import BinaryDense
from cnnkit.layers.binary import METHODS
from export.binarization.packing import pack
from export.binarization.packing import unpack
from tests.contracts.parts import perturb

# Of an array: the headers of NumPy and of the zip archive, with its name twice.
_HEADERS = 340


def classifier(method, dtype=None):
    """Real layers first and last, as in the papers; odd sizes, and a nested model."""
    inner = keras.Input((3, 3, 5), name="maps")
    nested = keras.Model(
        inner, BinaryConv2D(7, 3, method, use_bias=True, dtype=dtype, name="more")(inner), name="in"
    )
    x = image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(3, 3, name="first")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = BinaryConv2D(5, 3, method, strides=2, dtype=dtype, name="conv")(x)
    x = nested(x)
    x = BinaryDense(11, method, dtype=dtype, name="dense")(layers.Flatten(name="flat")(x))
    x = layers.Dense(4, name="logits")(x)
    return perturb(keras.Model(image, x, name="binary"))


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("dtype", [None, "mixed_float16"])
@pytest.mark.parametrize("method", METHODS)
def test_outputs_are_exactly_the_same(method, dtype, tmp_path):
    model = classifier(method, dtype)
    model.compile("adam", "mse")
    before = model.get_weights()
    again = unpack(pack(model, tmp_path / "m.npz"))
    x = numbers(6, 8, 8, 1)
    np.testing.assert_array_equal(again(x, training=False), model(x, training=False))
    np.testing.assert_array_equal(np.concatenate([w.ravel() for w in before]), flat(model))
    assert not again.compiled
    # A second time, nothing is lost that was not lost the first time.
    pack(again, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "m.npz").read_bytes()


def flat(model):
    return np.concatenate([w.ravel() for w in model.get_weights()])


@pytest.mark.parametrize("method", ["bnn", "xnor"])
def test_one_bit_a_weight_and_one_number_a_filter(method, tmp_path):
    inputs = keras.Input((500,))
    model = keras.Model(inputs, BinaryDense(300, method)(BinaryDense(401, method)(inputs)))
    path = pack(model, tmp_path / "m.npz")
    signs = 500 * 401 // 8 + 1 + 401 * 300 // 8 + 1  # of both kernels, the last byte has 4 bits
    least = signs + 4 * (401 + 300) * (method == "xnor")
    with np.load(path) as arrays:
        config, count = len(arrays["model"]), len(arrays.files)
        kept = sum(arrays[name].nbytes for name in arrays.files if name != "model")
    assert kept == least
    assert path.stat().st_size < least + config + _HEADERS * count
    model.save(tmp_path / "m.keras")
    assert path.stat().st_size < (tmp_path / "m.keras").stat().st_size / 25


def test_a_filter_of_zeros(tmp_path):
    model = keras.Sequential([keras.Input((5,)), BinaryDense(3, "bwn")])
    kernel = numbers(5, 3)
    kernel[:, 1] = 0
    model.set_weights([kernel])
    y = np.asarray(unpack(pack(model, tmp_path / "m.npz"))(numbers(2, 5)))
    np.testing.assert_array_equal(y, model(numbers(2, 5)))
    assert not y[:, 1].any()


def test_an_unpacked_model_learns(tmp_path):
    model = unpack(pack(classifier("bwn"), tmp_path / "m.npz"))
    before = np.array(model.get_layer("conv").real_kernel)
    model.compile("sgd", "mse")
    model.fit(numbers(4, 8, 8, 1), np.zeros((4, 4)), verbose=0)
    assert np.any(before != model.get_layer("conv").real_kernel)


def test_nothing_to_pack(tmp_path):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3)], name="real")
    with pytest.raises(UsageError, match="nothing to pack: real"):
        pack(model, tmp_path / "m.npz")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CnnkitError, match="Cannot write"):
        pack(classifier("bwn"), tmp_path / "file" / "m.npz")


def refused(path):
    with pytest.raises(UsageError) as error:
        unpack(path)
    return str(error.value)


def test_what_is_no_packed_model(tmp_path):
    assert "No such packed model" in refused(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("hello")
    assert "damaged" in refused(tmp_path / "text.npz")
    np.savez(tmp_path / "data.npz", x=np.ones(3))
    assert "Not a packed model" in refused(tmp_path / "data.npz")


@pytest.fixture
def parts(tmp_path):
    with np.load(pack(classifier("bwn"), tmp_path / "good.npz")) as arrays:
        return dict(arrays)


def config_of(value):
    return np.frombuffer(zlib.compress(json.dumps(value).encode()), np.uint8)


def test_hostile_and_damaged_files(tmp_path, parts):
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refused(tmp_path / "cut.npz")
    (signs,) = (name for name in parts if parts[name].size == 17)
    dense = {"module": "keras.layers", "class_name": "ReLU", "config": {"name": "r"}}
    changes = {
        "bits": ({signs: parts[signs][:-1]}, "bytes of signs"),
        "floats": ({signs: parts[signs].astype("float32")}, "bytes of signs"),
        "shape": ({"0": np.ones((2, 2))}, "damaged"),
        "pickle": ({"0": np.array([{}], object)}, "damaged"),
        "bomb": ({"model": np.frombuffer(zlib.compress(bytes(2**27)), np.uint8)}, "no end"),
        "list": ({"model": config_of([1])}, "Not a model"),
        "layer": ({"model": config_of({**dense, "registered_name": None})}, "Received ReLU"),
    }
    for name, (change, message) in changes.items():
        np.savez(tmp_path / f"{name}.npz", **{**parts, **change})
        assert message in refused(tmp_path / f"{name}.npz")
    del parts[signs]
    np.savez(tmp_path / "less.npz", **parts)
    assert "damaged" in refused(tmp_path / "less.npz")


def test_compressed_members_are_refused(tmp_path, parts):
    np.savez_compressed(tmp_path / "m.npz", **parts)
    assert zipfile.ZipFile(tmp_path / "m.npz").infolist()[0].compress_type == zipfile.ZIP_DEFLATED
    assert "Not a packed model" in refused(tmp_path / "m.npz")


@pytest.mark.filterwarnings("ignore")
def test_python_code_is_refused(tmp_path):
    code = layers.Lambda(lambda x: 2 * x)
    model = keras.Sequential([keras.Input((5,)), code, BinaryDense(3)])
    assert "Lambda" in refused(pack(model, tmp_path / "m.npz"))
