"""Models with binary layers, in files of one bit for each of their weights."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from cnnkit import files
from cnnkit.errors import UsageError
from cnnkit.layers import BinaryConv2D
from cnnkit.layers import BinaryDense
from cnnkit.layers.binary import filter_scales
from cnnkit.models.saving import explained

_MODEL = "model"
# Far above any configuration; of more, the file is made to fill the memory.
_LONGEST_MODEL = 2**26


def pack(model: keras.Model, path: str | Path) -> Path:
    """Writes `model` with 1 bit for each weight of `BinaryDense` and `BinaryConv2D`.

    The file is a `.npz` without pickles: the configuration of the model; of each binary kernel
    the signs, eight in a byte, and where the method scales filters one number for each of them;
    all other weights as they are. What training moves behind the signs, and the state of an
    optimizer, is not kept.

    This is for storing and sending a model. It buys nothing in TFLite and ONNX files, which hold
    the same weights as ordinary numbers, since their runtimes have no kernels for bits; nor is
    an unpacked model smaller in memory, or faster.

    Args:
        model: Functional or sequential, with at least one binary layer.
        path: Where the file goes; it appears there whole or not at all.

    Returns:
        The path.

    Raises:
        UsageError: If there is no binary layer.

    Reference:
        Rastegari et al. 2016, "XNOR-Net", section 3.1, https://arxiv.org/abs/1603.05279, whose
        `W = alpha B` is what is stored. Differs: nothing.
    """
    path, layers = Path(path), _binary_layers(model)
    if not layers:
        raise UsageError(
            "There is nothing to pack",
            where=model.name,
            expected="a BinaryDense or BinaryConv2D layer",
            todo="save the model as a .keras file",
        )
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    text = zlib.compress(json.dumps(config).encode(), 9)
    arrays: dict[str, Any] = {_MODEL: np.frombuffer(text, np.uint8)}
    for number, weight in enumerate(model.weights):
        layer = layers.get(id(weight))
        if layer is None:
            arrays[f"{number}"] = ops.convert_to_numpy(weight)
            continue
        kernel = ops.cast(weight, layer.compute_dtype)
        arrays[f"{number}.signs"] = np.packbits(ops.convert_to_numpy(kernel >= 0))
        if layer.scales_filters:
            scales = ops.cast(filter_scales(kernel), "float32")
            arrays[f"{number}.scales"] = ops.convert_to_numpy(scales)
    with files.replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)
    return path


def unpack(path: str | Path) -> keras.Model:
    """Returns the model in a file of `pack`, which gives exactly the outputs of the packed one.

    Its binary layers have kernels of `alpha B`, or of +1 and -1, from which they can be trained
    on.

    Raises:
        UsageError: If there is no such file, or it is none of `pack`, damaged or hostile.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError("No such packed model", where=path, expected="a file of `pack`")
    try:
        return _unpacked(path)
    except UsageError:
        raise
    except Exception as error:  # NumPy and Keras raise many kinds, and libraries below them others
        raise explained(path, error) from error


def _unpacked(path: Path) -> keras.Model:
    with zipfile.ZipFile(path) as archive:
        # `pack` stores; what is compressed here could be any size.
        honest = all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
        if not honest or f"{_MODEL}.npy" not in archive.namelist():
            raise UsageError("Not a packed model", where=path, expected="a file of `pack`")
    with np.load(path, allow_pickle=False) as arrays:
        reader = zlib.decompressobj()
        text = reader.decompress(arrays[_MODEL].tobytes(), _LONGEST_MODEL)
        if not reader.eof:
            raise ValueError("the configuration of the model has no end")
        model = keras.saving.deserialize_keras_object(json.loads(text), safe_mode=True)
        if not isinstance(model, keras.Model):
            raise UsageError("Not a model", where=path, received=type(model).__name__)
        layers = _binary_layers(model)
        for number, weight in enumerate(model.weights):
            layer = layers.get(id(weight))
            if layer is None:
                weight.assign(arrays[f"{number}"])
                continue
            size = math.prod(weight.shape)
            signs = arrays[f"{number}.signs"]
            if signs.dtype != np.uint8 or signs.shape != (-(-size // 8),):
                raise ValueError(f"{signs.shape} bytes of signs for a kernel of {weight.shape}")
            scales = arrays[f"{number}.scales"] if layer.scales_filters else np.float32(1)
            positive = np.unpackbits(signs, count=size).reshape(weight.shape)
            weight.assign(np.where(positive, scales, -scales))
    return model


def _binary_layers(model: keras.Model) -> dict[int, Any]:
    """Returns the binary layers by the identity of their kernel."""
    return {
        id(layer.real_kernel): layer
        for layer in model._flatten_layers()
        if isinstance(layer, BinaryDense | BinaryConv2D)
    }
