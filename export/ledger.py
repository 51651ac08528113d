"""What a model or a file costs and how good it is, one row for each."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

if TYPE_CHECKING:
    import keras

_WARMUP, _REPEATS = 5, 30


@dataclass(frozen=True)
class Row:
    """One row of the ledger. What was not measured is None.

    Attributes:
        name: Step of the pipeline, or format.
        params: Weights, trainable or not.
        nonzeros: Weights that are not zero.
        macs: Multiply-accumulates for one picture.
        activation_bytes: Peak of the activations of one picture, as float32.
        size_bytes: Size of the file, or of all files of a folder.
        zip_bytes: The same, compressed with deflate.
        latency_ms: Median time for one picture on one thread.
        accuracy: Fraction of right answers on the test pictures.
    """

    name: str
    params: int | None = None
    nonzeros: int | None = None
    macs: int | None = None
    activation_bytes: int | None = None
    size_bytes: int | None = None
    zip_bytes: int | None = None
    latency_ms: float | None = None
    accuracy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def of_model(name: str, model: keras.Model, accuracy: float | None = None) -> Row:
    """Returns the row of a Keras model, saved as it is for inference."""
    from cnnkit.analysis import macs
    from cnnkit.models.saving import save_model

    with tempfile.TemporaryDirectory() as folder:
        path = save_model(model, Path(folder, "model.keras"))
        plain, zipped = sizes(path)
    return Row(
        name,
        params=macs.params(model),
        nonzeros=sum(int(np.count_nonzero(w)) for w in model.get_weights()),
        macs=macs.total(model),
        activation_bytes=macs.peak_activation_bytes(model),
        size_bytes=plain,
        zip_bytes=zipped,
        accuracy=accuracy,
    )


def sizes(path: Path) -> tuple[int, int]:
    """Returns the bytes of a file or folder, plain and compressed with deflate."""
    inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    packed = io.BytesIO()
    with zipfile.ZipFile(
        packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9, strict_timestamps=False
    ) as archive:
        for file in inside:
            archive.write(file, file.relative_to(path.parent))
    return sum(file.stat().st_size for file in inside), len(packed.getvalue())


def latency_ms(predict: Callable[[np.ndarray], np.ndarray], picture: np.ndarray) -> float:
    """Returns the median time of `predict` for one picture, in milliseconds."""
    times = []
    for _ in range(_WARMUP + _REPEATS):
        start = time.perf_counter()
        predict(picture[None])
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[_WARMUP:])


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Returns the fraction of pictures whose likeliest class is theirs; None without pictures."""
    return float(np.mean(probabilities.argmax(1) == labels)) if len(labels) else None
