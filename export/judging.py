"""An artifact against its model, in the artifact's own runtime: a verdict, not a hope."""

from __future__ import annotations

from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from cnnkit.errors import CnnkitError
from export import divergence
from export import ledger
from export.formats import Format
from export.limits import LIMITS
from export.limits import Gates
from export.limits import Limit

if TYPE_CHECKING:
    from cnnkit.data import Dataset
    from export.quantization.ranges import Ranges


@dataclass(frozen=True)
class Judged:
    """The verdict on one artifact.

    Attributes:
        format: Name of the format.
        path: Where it lies in the bundle.
        ok: Whether it may be handed over.
        reason: Why not, in one line.
        pictures: Number of pictures that it was run on.
        agreement: Fraction of them with the same likeliest class as the Keras model's.
        max_abs: Largest difference of a probability.
        accuracy: Fraction of right answers, None without labels.
        model_accuracy: The same of the Keras model.
        drop_error: Standard error of the difference of the two; the gate is held against the
            loss of accuracy less this error, so that few test pictures refuse nothing by chance.
        size_bytes: Size of the file or folder.
        zip_bytes: The same, compressed with deflate.
        latency_ms: Median time for one picture on one thread; None where a call starts a process.
        arena_bytes: RAM that TFLite Micro was measured to need; None for other runtimes.
        notes: What the user should know.
        opinions: What other runtimes gave for the same pictures.
        limit: What the format is held to, and why.
        worst_class: Index of the class that loses most accuracy, if one loses any.
        worst_drop: How much it loses against the Keras model, as a fraction.
    """

    format: str
    path: str
    ok: bool = False
    reason: str = ""
    pictures: int = 0
    agreement: float | None = None
    max_abs: float | None = None
    accuracy: float | None = None
    model_accuracy: float | None = None
    drop_error: float | None = None
    size_bytes: int | None = None
    zip_bytes: int | None = None
    latency_ms: float | None = None
    arena_bytes: int | None = None
    notes: tuple[str, ...] = ()
    opinions: tuple[str, ...] = ()
    limit: str = ""
    worst_class: int | None = None
    worst_drop: float = 0.0

    @property
    def drop(self) -> float | None:
        """How much accuracy the artifact loses against the Keras model."""
        if self.accuracy is None or self.model_accuracy is None:
            return None
        return self.model_accuracy - self.accuracy

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Pictures:
    """What artifacts are run on: raw pixels, their labels if known, and the model's outputs."""

    x: np.ndarray
    y: np.ndarray | None
    want: np.ndarray


def compared(model: Any, dataset: Dataset) -> Pictures:
    """Returns the test pictures (all, where there is no test part) and the model's outputs."""
    from cnnkit.training.predict import predict_keras

    split = next(s for s in ("test", "val", "train") if len(dataset.labels(s)))
    x, y = dataset.arrays(split)
    return Pictures(x, y, predict_keras(model, x))


def judge(
    row: Format,
    folder: Path,
    name: str,
    pictures: Pictures,
    gates: Gates,
    simulated: np.ndarray | None = None,
    model: Any = None,
) -> Judged:
    """Runs the artifact of one format on `pictures` and compares it with the Keras model.

    Of one that departs from the model, the verdict names the layer where it does.

    Args:
        row: The format.
        folder: The bundle's folder.
        name: Name of the model.
        pictures: What the artifact is run on.
        gates: What the user asks.
        simulated: What the file must compute if its model was trained for int8, see `simulate`:
            classes are compared with these. Accuracy is compared with the Keras model's.
        model: The Keras model, to look for the layer; None names none.
    """
    place, limit = row.path(name), LIMITS[row.name]
    path, module = folder / place, row.load()
    try:
        predict = module.predictor(path)
        got = predict(pictures.x)
        latency = ledger.latency_ms(predict, pictures.x[0]) if module.QUICK else None
        # A second runtime has to give the same, and tells more.
        confirmed = module.confirm(path, pictures.x, got) if hasattr(module, "confirm") else {}
    except Exception as failure:  # whatever the runtime says of a file that it cannot run
        reason = str(failure) if isinstance(failure, CnnkitError) else repr(failure).splitlines()[0]
        return Judged(row.name, str(place), reason=reason)
    if got.shape != pictures.want.shape:
        reason = f"outputs of shape {got.shape}, the Keras model's are {pictures.want.shape}"
        return Judged(row.name, str(place), reason=reason)
    want = pictures.want if simulated is None else simulated
    plain, zipped = ledger.sizes(path)
    right: list[float | None] = [None, None]
    error, worst = None, None
    if pictures.y is not None:
        worst = _worst_class(got, pictures.want, pictures.y)
        right = [ledger.accuracy(p, pictures.y) for p in (got, pictures.want)]
        error = _paired_error(got, pictures.want, pictures.y)
    judged = Judged(
        row.name,
        str(place),
        pictures=len(got),
        agreement=float(np.mean(got.argmax(1) == want.argmax(1))),
        max_abs=float(np.abs(got - want).max()),
        accuracy=right[0],
        model_accuracy=right[1],
        drop_error=error,
        size_bytes=plain,
        zip_bytes=zipped,
        latency_ms=latency,
        arena_bytes=confirmed.get("arena_bytes"),
        notes=tuple(module.notes(path)) if hasattr(module, "notes") else (),
        opinions=confirmed.get("opinions", ()),
        limit=f"{limit}: {limit.reason}",
    )
    if worst is not None:
        judged = replace(judged, worst_class=worst[0], worst_drop=worst[1])
    reason = _departure(judged, limit, gates)
    if reason and model is not None:
        reason = f"{reason}; {_where(row, path, model, pictures.x)}"
    reason = reason or _too_large(judged, gates)
    return replace(judged, ok=not reason, reason=reason)


def _where(row: Format, path: Path, model: Any, x: np.ndarray) -> str:
    """Returns at which layer a file departs from its model, in half a sentence."""
    if why := divergence.missing(row):
        return why
    try:
        return divergence.trace(row, path, model, x).told(LIMITS[row.name].layer_db)
    except Exception as failure:  # the verdict stands without it
        first = (str(failure) or type(failure).__name__).splitlines()[0]
        return f"its layers cannot be looked at ({first})"


def simulate(row: Format, model: Any, ranges: Ranges | None, x: np.ndarray) -> np.ndarray | None:
    """Returns what a file of this format must compute, or None if that is what the model does.

    Training in int8 may come to need the rounding: its float model is then another one.
    """
    if ranges is None or row.variant != "int8":  # wider activations do not round so
        return None
    from cnnkit.training.predict import predict_keras
    from export.quantization.twin import frozen

    target = "onnx" if row.module == "onnx" else ""
    return predict_keras(frozen(model, ranges, target=target), x)


def _worst_class(got: np.ndarray, want: np.ndarray, y: np.ndarray) -> tuple[int, float] | None:
    """Returns the class that loses most accuracy, and how much, or None if none loses any."""
    change = (want.argmax(1) == y).astype(float) - (got.argmax(1) == y)
    support = np.bincount(y, minlength=want.shape[1])
    drops = np.bincount(y, change, want.shape[1]) / np.maximum(support, 1)
    worst = int(drops.argmax())
    return (worst, float(drops[worst])) if drops[worst] > 0 else None


def _paired_error(got: np.ndarray, want: np.ndarray, y: np.ndarray) -> float:
    """Returns the standard error of the difference of two accuracies on the same pictures.

    Reference:
        McNemar 1947, "Note on the sampling error of the difference between correlated
        proportions or percentages", https://doi.org/10.1007/BF02295996. Differs: the null
        hypothesis's variance, the pictures on which only one of the two is right.
    """
    one_right = (got.argmax(1) == y) != (want.argmax(1) == y)
    return float(np.sqrt(one_right.sum()) / len(y))


def _departure(found: Judged, limit: Limit, gates: Gates) -> str:
    """Returns how the file is not the model: which limit or gate it misses, or an empty string."""
    agreement, max_abs = found.agreement or 0.0, found.max_abs
    # One picture is always allowed: less cannot be told from chance.
    one = 1.0 / found.pictures + 1e-9
    if max_abs is None or not np.isfinite(max_abs):
        return "gives NaN or infinity"
    if limit.max_abs is not None and max_abs > limit.max_abs:
        return (
            f"differs from the Keras model by {max_abs:.2g}, limit {limit.max_abs:g} "
            f"({limit.reason})"
        )
    if not gates.dry_run and 1.0 - agreement > max(1.0 - limit.agreement, one):
        return (
            f"agrees with the Keras model on {agreement:.1%}, limit {limit.agreement:.0%} "
            f"({limit.reason})"
        )
    if found.drop is not None and found.drop - (found.drop_error or 0.0) > gates.max_drop + 1e-9:
        return f"loses {found.drop:.4f} of accuracy, export.max_drop is {gates.max_drop:g}"
    return ""


def _too_large(found: Judged, gates: Gates) -> str:
    if gates.max_size is not None and (found.size_bytes or 0) > gates.max_size:
        return f"has {found.size_bytes} bytes, export.max_size is {gates.max_size}"
    if gates.max_arena is not None and (found.arena_bytes or 0) > gates.max_arena:
        return f"needs {found.arena_bytes} bytes of RAM, export.target has {gates.max_arena}"
    return ""
