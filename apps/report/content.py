"""What report and card tell of a model and its files."""

from __future__ import annotations

import io
from base64 import b64encode
from datetime import UTC
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from apps.report import charts
from apps.report import snippets
from apps.report import wording
from cnnkit.analysis import curves
from cnnkit.training.dry_run import TOLD
from export import formats

if TYPE_CHECKING:
    from cnnkit.data import Dataset
    from cnnkit.training.evaluate import Scores
    from export.subject import Subject

# The file that the report looks at closely: the first of these that passed.
_FOCUS = (
    "tflite-int8",
    "tflite-mediapipe",
    "tflite-int16x8",
    "tflite-fp16",
    "tflite-dynamic",
    "tflite-int4",
    "tflite",
    "onnx-int8",
    "onnx",
    "savedmodel",
)
_MISTAKES = 12


def facts(folder: Path, manifest: dict[str, Any], subject: Subject) -> dict[str, Any]:
    """Returns what report and card tell, by the names that their templates have for it.

    Args:
        folder: The bundle's folder with its artifacts, or a run folder, which has none.
        manifest: The bundle's manifest, or `of_run`.
        subject: The model, its labels and data.
    """
    passed = [row["format"] for row in manifest["verdicts"] if row["ok"]]
    focus = next((name for name in _FOCUS if name in passed), "keras")
    dataset, scores, judged = subject.dataset, None, {}
    if dataset is not None:
        scores, sure, right = _scores(focus, folder, subject, dataset)
        judged = {
            "data": dataset.manifest,
            "confusion": charts.confusion(scores.confusion, dataset.classes),
            "confused": _confused(scores, dataset),
            "mistakes": _mistakes(scores, dataset),
            "reliability": charts.reliability(sure, right),
        }
    history, health = _training(subject)
    findings = curves.diagnosis(history)
    told = [finding.text for finding in findings if finding.name != curves.GOOD] + health
    points = _points(manifest)
    return {
        "manifest": manifest,
        "subject": subject,
        "focus": focus,
        "scores": scores,
        "verdict": ("unknown", f"This is {TOLD}.")
        if subject.recipe.guard.dry_run
        else wording.verdict(scores, focus),
        "warnings": wording.warnings(manifest, subject, scores, told),
        "opinions": [
            # Older bundles have none of these.
            (row["format"], text)
            for row in manifest["verdicts"]
            for text in row.get("opinions", ())
        ],
        "target": manifest.get("target"),
        "curves": history and charts.curves(history),
        "pareto": charts.pareto(points) if len(points) > 1 else "",
        "findings": findings,
        "augmented": _augmented(subject),
        "snippets": snippets.write(folder, manifest["name"], passed),
        **judged,
    }


def of_run(subject: Subject) -> dict[str, Any]:
    """Returns what a bundle's manifest would say of a run folder, which has no artifacts."""
    from cnnkit.training.predict import predict_keras
    from export import ledger
    from export.bundle import versions
    from export.limits import Gates
    from export.pipeline import read_ledger

    right = None
    if subject.dataset is not None:
        x, y = subject.dataset.arrays("test")
        right = ledger.accuracy(predict_keras(subject.model, x), y)
    rows = read_ledger(subject.origin) or [ledger.of_model("model", subject.model, right)]
    options = subject.recipe.export
    return {
        "name": subject.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "seed": subject.recipe.train.seed,
        "input": {"name": "image", "shape": list(subject.model.input_shape[1:])},
        "output": {"name": "probabilities", "classes": subject.model.output_shape[-1]},
        "labels": subject.labels and list(subject.labels),
        "resize": subject.resize,
        "gates": vars(Gates(options.max_drop, options.max_size)),
        "verified_on": "no pictures",
        "notes": list(subject.notes),
        "ledger": [row.to_dict() for row in rows],
        "verdicts": [],
        "command": f"cnnkit train -c {subject.origin}/config.toml",
    }


def _points(manifest: dict[str, Any]) -> list[tuple[str, int, float]]:
    """Returns name, bytes and accuracy of the Keras model and of the files that passed."""
    last = manifest["ledger"][-1]
    rows = [("keras", last["size_bytes"], last["accuracy"])]
    rows += [
        (row["format"], row["size_bytes"], row["accuracy"])
        for row in manifest["verdicts"]
        if row["ok"]
    ]
    return [point for point in rows if None not in point]


def _scores(
    focus: str, folder: Path, subject: Subject, dataset: Dataset
) -> tuple[Scores, np.ndarray, np.ndarray]:
    """Returns the scores of a file, how sure each of its answers is, and which are right."""
    from cnnkit.training.evaluate import evaluate
    from cnnkit.training.predict import predict_keras

    x, y = dataset.arrays("test")
    if focus == "keras":
        p = predict_keras(subject.model, x)
    else:
        row = formats.get(focus)
        p = row.load().run(folder / row.path(subject.name), x)
    return evaluate(lambda _: p, dataset), p.max(1), p.argmax(1) == y


def _training(subject: Subject) -> tuple[list[dict[str, float]], list[str]]:
    """Returns the rows of the training, and what was wrong in the layers at its end."""
    from cnnkit.training.train import Run

    origin = subject.origin
    if origin is None or not (origin / "metrics.csv").is_file():
        return [], []
    run = Run.open(origin)
    return run.metrics, run.health


def _augmented(subject: Subject) -> str | None:
    """Returns what augmentation made of training pictures, if there was any."""
    from cnnkit.training.trainer import AUGMENTED

    path = subject.origin and subject.origin / AUGMENTED
    return _embedded(path.read_bytes()) if path and path.is_file() else None


def _confused(scores: Scores, dataset: Dataset) -> list[tuple[int, str, str]]:
    """Returns the pairs (how often, truth, answer) that are confused most."""
    counts, names = np.array(scores.confusion), dataset.classes
    np.fill_diagonal(counts, 0)
    pairs = [(int(n), names[i], names[j]) for (i, j), n in np.ndenumerate(counts) if n]
    return sorted(pairs, reverse=True)[:8]


def _mistakes(scores: Scores, dataset: Dataset) -> list[dict[str, Any]]:
    x, _ = dataset.arrays("test")
    rows = {name: k for k, name in enumerate(dataset.ids("test"))}
    return [{"picture": data_uri(x[rows[m.id]]), **vars(m)} for m in scores.mistakes[:_MISTAKES]]


def data_uri(pixels: np.ndarray) -> str:
    """Returns a picture as a PNG in a `data:` address."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return _embedded(buffer.getvalue())


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + b64encode(png).decode()
