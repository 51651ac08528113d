"""How good a model is, and what speaks against it, in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import numpy as np

if TYPE_CHECKING:
    from cnnkit.training.evaluate import Scores
    from export.subject import Subject

_FEW = 20
_IMBALANCE = 3.0


def verdict(scores: Scores | None, focus: str) -> tuple[str, str]:
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


def warnings(
    manifest: dict[str, Any],
    subject: Subject,
    scores: Scores | None,
    training: list[str],
) -> list[str]:
    """Returns what a user should know before the files are used; `training` is what went wrong."""
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
