"""SavedModel version folders, as TF Serving loads them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from cnnkit import checks
from cnnkit import files
from cnnkit.errors import UsageError
from cnnkit.types import Tensor
from export.formats import metadata as meta
from export.formats import signatures
from export.formats import trace
from export.formats.metadata import INPUT
from export.formats.metadata import OUTPUT
from export.formats.metadata import Metadata
from export.formats.probe import Probe
from export.formats.trace import SIGNATURE

if TYPE_CHECKING:
    import keras

VARIANTS = ("float32",)
# Whether one call of a predictor is short enough to be timed.
QUICK = False
# TF Serving ignores what lies here, apart from its own warm-up records.
EXTRA = "assets.extra"
_METADATA = f"{EXTRA}/cnnkit.json"
_PROBE = Probe(
    Path(__file__).with_name("savedmodel_probe.py"), "TensorFlow cannot run this SavedModel"
)


def write(
    model: keras.Model,
    path: Path,
    *,
    variant: str = "float32",
    calibration: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    resize: str | None = None,
) -> Path:
    """Writes `model` as the SavedModel folder `path` and returns `path`.

    Its signature `serving_default` takes `image` (float32, any batch size) and returns
    `probabilities`. A classifier of pictures whose resize rule is known also has those of
    `signatures.py`, which take JPEG and PNG files. TF Serving wants `path` to be a number inside a
    folder of the model's name.

    Args:
        model: One input, one output. Deployable models take raw pixels 0-255.
        path: The folder, which appears there whole or not at all.
        variant: "float32".
        calibration: Not used; here so that all formats are written alike.
        labels: Class names, stored in `assets.extra/cnnkit.json`.
        resize: Name of the resize rule, stored there and part of the graph.
    """
    checks.one_of("saved_model.write", "variant", variant, VARIANTS)
    described = meta.of(model, labels, resize)
    with files.replacing(path) as partial:
        more = signatures.of(described, model.output_shape)
        with _unfused(model):
            trace.save(model, partial, None, more)
        if more:
            signatures.mark_classify(partial)
        files.write_text(partial / _METADATA, described.dumps())
    return path


@contextlib.contextmanager
def _unfused(model: keras.Model) -> Iterator[None]:
    """Has grouped convolutions add their bias behind a reshape, which costs nothing.

    Else TensorFlow fuses it into an operation that has no groups where oneDNN is off, as it is by
    default on processors without AVX-512, and the model fails when it is called.
    """
    from keras import layers
    from keras import ops

    def call(layer: Any, x: Tensor) -> Tensor:
        y = layer.convolution_op(x, layer.kernel)
        flat = ops.reshape(y, (-1, y.shape[-1])) + layer.bias
        return layer.activation(ops.reshape(flat, ops.shape(y)))

    kinds = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
    grouped = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, kinds) and layer.groups > 1 and layer.use_bias
        if layer.data_format == "channels_last"
    ]
    for layer in grouped:
        layer.call = partial(call, layer)
    try:
        yield
    finally:
        for layer in grouped:
            del layer.call


def run(path: Path, x: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Returns the outputs for `x`, from a process that has TensorFlow but no Keras or cnnkit.

    Raises:
        UsageError: If the folder cannot be loaded or run there.
    """
    if not (path / "saved_model.pb").is_file():
        raise UsageError("Not a SavedModel folder", where=path, expected="saved_model.pb in it")
    return _PROBE.outputs(path, x, str(threads))[0]


def predictor(path: Path, *, threads: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from pictures to outputs; every call starts a process, see `run`."""
    return lambda x: run(path, x, threads=threads)


def loaded(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from pictures to outputs that runs in this process, in any thread."""
    import tensorflow as tf

    model = tf.saved_model.load(str(path))

    def predict(x: np.ndarray) -> np.ndarray:
        outputs = model.signatures[SIGNATURE](**{INPUT: tf.constant(x, tf.float32)})
        return outputs[OUTPUT].numpy()

    return predict


def input_shape(path: Path) -> tuple[int, ...]:
    """Returns the shape of one example.

    Raises:
        UsageError: If the folder is not one that cnnkit wrote.
    """
    if described := metadata(path):
        return described.input_shape
    raise UsageError(
        "The size of the pictures is not stored in this SavedModel",
        where=path,
        expected="a SavedModel that cnnkit exported",
    )


def metadata(path: Path) -> Metadata | None:
    """Returns what cnnkit wrote into the folder, or None if that is nothing."""
    file = path / _METADATA
    return meta.loads(file.read_bytes()) if file.is_file() else None
