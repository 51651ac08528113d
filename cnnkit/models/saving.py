"""Model files: loading what may be hostile or broken, and writing whole files without extras."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import keras

from cnnkit import files
from cnnkit.errors import UsageError

_HDF5 = (".h5", ".hdf5")
_CONFIG = "config.json"
# How Keras speaks of Python code in a file: of a layer, a function, an activation.
_CODE = ("`Lambda` layer", "__lambda__", "activation function identifier: {'value'")


def load_model(path: str | Path) -> keras.Model:
    """Returns the model in a `.keras` or `.h5` file, in safe mode and not compiled.

    Raises:
        UsageError: If there is no such file, it is no model, it is damaged, or it has code or
            layers that cannot be loaded.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(
            "Not a model file" if path.exists() else "No such model file",
            where=path,
            expected="a .keras file",
        )
    if path.suffix not in _HDF5:
        _require_archive(path)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds, and libraries below it others
        raise explained(path, error) from error
    if not isinstance(model, keras.Model):
        raise UsageError("Not a model", where=path, received=type(model).__name__)
    return model


def save_model(model: keras.Model, path: str | Path) -> Path:
    """Writes a `.keras` file without optimizer and compile state, whole or not at all."""
    path = Path(path)
    with files.replacing(path) as partial:
        _bare(model).save(partial)
    return path


def _bare(model: keras.Model) -> keras.Model:
    """Returns `model`, or a copy that has never been compiled."""
    if not model.compiled:
        return model
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def _require_archive(path: Path) -> None:
    """Raises unless the file is a zip archive with the configuration of a model in it."""
    received = ""
    if path.suffix != ".keras":
        received = f"the ending {path.suffix!r}"
    elif not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            cut = file.read(2) == b"PK"
        received = "a .keras file of which the end is missing" if cut else "no zip archive"
    else:
        with zipfile.ZipFile(path) as archive:
            if _CONFIG not in archive.namelist():
                received = f"a zip archive without {_CONFIG}"
    if received:
        raise UsageError(
            "Not a model file",
            where=path,
            expected="a .keras file, as `model.save` writes it",
            received=received,
        )


def explained(path: Path, error: Exception) -> UsageError:
    """Returns what a failure of Keras to load a model means to its owner."""
    chain: list[BaseException] = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    text = "\n".join(map(str, chain))
    if any(sign in text for sign in _CODE):
        return UsageError(
            "The model has Python code in it (a Lambda layer or function), which is not run, "
            "since it could do anything",
            where=path,
            todo="save the model again with a layer of Keras, or of your own, in its place",
        )
    if unknown := re.search(
        r"(?:Could not locate (?:class|function)|Unknown layer:) '(.+?)'", text
    ):
        return UsageError(
            f"The model has a layer or function {unknown[1]!r}, which is not known here",
            where=path,
            todo="replace it by one of Keras; or, in Python, register it with "
            "keras.saving.register_keras_serializable and import it before loading",
        )
    if any(isinstance(link, RecursionError) for link in chain):
        return UsageError("The model is nested too deeply", where=path)
    reason = " ".join((str(chain[-1]) or type(chain[-1]).__name__).split())
    return UsageError(
        "The model file is damaged, or of another version of Keras",
        where=path,
        received=reason[:200],
    )
