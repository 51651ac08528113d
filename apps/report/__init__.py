"""`report.html` and `MODEL_CARD.md`: how good a model and its files are, and for what.

The report is one file that works offline. The card is Markdown, with the front matter that model
hubs read; what only people know is marked `TODO` in it.
"""

from __future__ import annotations

import io
import re
from base64 import b64encode
from datetime import UTC
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import jinja2
import numpy as np

from apps.report import charts
from apps.report import snippets
from cnnkit import files
from cnnkit.analysis import curves
from cnnkit.data.manifest import printable
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
PAGE, CARD = "report.html", "MODEL_CARD.md"
_MISTAKES = 12
_FEW = 20
_IMBALANCE = 3.0


def write_report(folder: Path, manifest: dict[str, Any], subject: Subject) -> Path:
    """Writes `report.html` and `MODEL_CARD.md` for the bundle that is being made in `folder`.

    The scores of the file that the report looks at go into `manifest` too.

    Args:
        folder: The bundle's folder, with its artifacts.
        manifest: The bundle's manifest so far.
        subject: The model, its labels and data.
    """
    found = facts(folder, manifest, subject)
    if found["scores"] is not None:
        manifest["scores"] = {"of": found["focus"], **found["scores"].to_dict()}
    write_card(folder / CARD, found)
    return write_page(folder / PAGE, found)


def write_page(path: Path, found: dict[str, Any]) -> Path:
    """Writes the report of what `facts` found, and returns its path."""
    return files.write_text(path, _environment().get_template("report.html.j2").render(found))


def write_card(path: Path, found: dict[str, Any]) -> Path:
    """Writes the model card of what `facts` found, and returns its path."""
    return files.write_text(path, _environment().get_template("card.md.j2").render(found))


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
        else _verdict(scores, focus),
        "warnings": _warnings(manifest, subject, scores, told),
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
    from export.pipeline import read_ledger
    from export.verification import Gates

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


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("apps", "report"),
        # Class names and paths are the user's. Markdown escapes in its own way, see `markdown`.
        autoescape=jinja2.select_autoescape(("html.j2",)),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda x: "-" if x is None else f"{100 * x:.2f} %"
    environment.filters["number"] = lambda x: "-" if x is None else f"{x:,}"
    environment.filters["md"] = markdown
    environment.filters["short"] = lambda x: "-" if x is None else f"{x:.3g}"
    return environment


def markdown(text: object) -> str:
    """Returns a text that Markdown shows as it is: on one line, without markup, links or HTML.

    Reference:
        CommonMark 0.31.2, section 2.4: any ASCII punctuation can be escaped by a backslash,
        https://spec.commonmark.org/0.31.2/#backslash-escapes. Differs: nothing.
    """
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", printable(text))


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


def _verdict(scores: Scores | None, focus: str) -> tuple[str, str]:
    """Returns a class for the colour, and how good the result is, in plain words."""
    if scores is None:
        return "unknown", "Without labelled pictures nobody knows how good this model is."
    (low, high), (least, most) = scores.interval, scores.macro_f1_interval
    facts = (
        f"The {focus} file is right on {scores.accuracy:.1%} of {scores.pictures} test pictures "
        f"that it never saw (95 % interval {low:.1%} to {high:.1%}). Always answering the largest "
        f"class would be right on {scores.majority:.1%}. Macro F1, in which all classes count "
        f"alike, is {scores.macro_f1:.1%} ({least:.1%} to {most:.1%})."
    )
    if low <= scores.majority:
        return "bad", f"{facts} It is not certainly better than guessing: do not use it."
    errors = (1 - scores.accuracy) / max(1 - scores.majority, 1e-9)
    if errors > 0.5:
        return "poor", f"{facts} It has learned something, but is wrong too often for most uses."
    if errors > 0.1:
        return "fair", f"{facts} It removes {1 - errors:.0%} of the mistakes of that guess."
    return "good", f"{facts} It removes {1 - errors:.0%} of the mistakes of that guess."


def _warnings(
    manifest: dict[str, Any],
    subject: Subject,
    scores: Scores | None,
    training: list[str],
) -> list[str]:
    found = [
        f"{r['format']} is refused: {r['reason']}" for r in manifest["verdicts"] if not r["ok"]
    ]
    found += [f"{r['format']}: {note}" for r in manifest["verdicts"] for note in r["notes"]]
    found += manifest["notes"]
    first, last = (manifest["ledger"][k]["accuracy"] for k in (0, -1))
    if first is not None and first - last > manifest["gates"]["max_drop"]:
        found.append(f"compression cost accuracy: {first:.2%} before, {last:.2%} after")
    found += [f"training: {text}" for text in training]
    if subject.dataset is None or scores is None:
        return [*found, "no labelled pictures: the files were compared on synthetic ones"]
    few = [row.name for row in scores.classes if row.support < _FEW]
    if few:
        found.append(
            f"{len(few)} of {len(scores.classes)} classes have fewer than {_FEW} test pictures "
            f"({', '.join(few[:8])}): their numbers are rough"
        )
    sizes = np.bincount(subject.dataset.labels("train"), minlength=len(scores.classes))
    if sizes.max() > _IMBALANCE * sizes.min():
        found.append(f"uneven classes: from {sizes.min()} to {sizes.max()} training pictures")
    problems = subject.dataset.manifest.problems
    alike = sum(p.code == "near-conflict" for p in problems)
    if alike:
        found.append(f"{alike} pictures are near copies of one in another class: see Data")
    lacking = [p.path for p in problems if p.code == "one-sided-class"]
    if lacking:
        found.append(f"classes that one of the splits lacks: {', '.join(lacking[:8])}")
    bad = [p for p in problems if p.action == "skipped"]
    if bad:
        found.append(f"{len(bad)} pictures were left out: see Data")
    return found


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
