"""The charts of the report, as SVG that stands in the page."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from markupsafe import Markup

from cnnkit import files
from cnnkit.errors import UsageError
from cnnkit.training.evaluate import BINS

if TYPE_CHECKING:
    from export.bench import Result

_MANY = 30


def curves(history: Sequence[dict[str, float]]) -> Markup:
    """Returns loss and accuracy over the epochs."""
    figure, (left, right) = _figure(1, 2, (10, 3.2))
    epochs = [row["epoch"] for row in history]
    for axis, kind in ((left, "loss"), (right, "accuracy")):
        for key, label in ((kind, "training"), (f"val_{kind}", "validation")):
            values = [row.get(key) for row in history]
            if all(value is not None for value in values):
                axis.plot(epochs, values, label=label, marker="." if len(epochs) < 3 else "")
        axis.set(title=kind, xlabel="epoch")
        axis.grid(alpha=0.3)
        axis.legend()
    return _svg(figure)


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """Returns the confusion matrix, coloured by the fraction of each row."""
    table = np.asarray(counts)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = min(12.0, 2.5 + 0.45 * len(names))
    figure, axis = _figure(1, 1, (side, side))
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    short = [_plain(name) for name in names]
    axis.set_xticks(range(len(names)), short, rotation=90)
    axis.set_yticks(range(len(names)), short)
    axis.set(xlabel="answer", ylabel="truth")
    if len(names) <= _MANY:
        for (i, j), n in np.ndenumerate(table):
            if n:
                colour = "white" if share[i, j] > 0.5 else "black"
                axis.text(j, i, str(n), ha="center", va="center", color=colour, fontsize=8)
    return _svg(figure)


def pareto(points: Sequence[tuple[str, int, float]]) -> Markup:
    """Returns size against accuracy of files, and the line of those that no other one beats.

    Args:
        points: Name, bytes and accuracy of each.
    """
    figure, axis = _figure(1, 1, (8, 4))
    best = front(points)
    axis.step([p[1] for p in best], [p[2] for p in best], where="post", alpha=0.5)
    for name, size, accuracy in points:
        mark = "o" if (name, size, accuracy) in best else "x"
        axis.plot([size], [accuracy], mark, color="C0")
        axis.annotate(_plain(name), (size, accuracy), xytext=(4, 4), textcoords="offset points")
    axis.set(xlabel="bytes", ylabel="test accuracy", xscale="log")
    axis.margins(0.15)
    axis.grid(alpha=0.3)
    return _svg(figure)


def front(points: Sequence[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
    """Returns the points than which no other is as small and more right, or smaller and as right.

    Reference:
        Pareto 1906, "Manuale di economia politica", chapter 6. Differs: of equal points, the first.
    """
    found: list[tuple[str, int, float]] = []
    for point in sorted(points, key=lambda p: (p[1], -p[2])):
        if not found or point[2] > found[-1][2]:
            found.append(point)
    return found


def reliability(sure: np.ndarray, right: np.ndarray) -> Markup:
    """Returns how often answers are right against how sure they were, and how many were so sure.

    Args:
        sure: Largest probability of each picture.
        right: Whether its class is the true one.

    Reference:
        Niculescu-Mizil and Caruana 2005, "Predicting Good Probabilities With Supervised Learning",
        section 4, https://doi.org/10.1145/1102351.1102430. Differs: of the likeliest class.
    """
    from sklearn.calibration import calibration_curve

    sure = np.clip(sure, 0.0, 1.0)  # a softmax may round to a little more than 1
    share, mean = calibration_curve(right.astype(int), sure, pos_label=1, n_bins=BINS)
    figure, (left, below) = _figure(1, 2, (9, 3.6))
    left.plot([0, 1], [0, 1], ":", color="grey", label="as sure as right")
    left.plot(mean, share, "o-", label="the file")
    left.set(xlabel="mean probability", ylabel="fraction right", xlim=(0, 1), ylim=(0, 1.05))
    left.legend()
    below.hist(sure, bins=BINS, range=(0, 1))
    below.set(xlabel="probability", ylabel="pictures", xlim=(0, 1))
    for axis in (left, below):
        axis.grid(alpha=0.3)
    return _svg(figure)


def _plain(name: str) -> str:
    # matplotlib reads `$…$` as mathematics; what a font lacks or a line breaks is not for axes.
    return "".join(c if c.isprintable() else "?" for c in name)[:20].replace("$", r"\$")


def require_picture(path: Path) -> None:
    """Raises if a file cannot be a chart.

    Raises:
        UsageError: If its name ends in neither .png nor .svg.
    """
    if path.suffix not in (".png", ".svg"):
        raise UsageError("Not a picture's name", where=path, expected="NAME.png or NAME.svg")


def write_times(path: Path, rows: Sequence[Result]) -> None:
    """Writes the times of files as a picture: least, median, and from p10 to p95."""
    figure, axis = _figure(1, 1, (8, 1.2 + 0.35 * len(rows)))
    places = range(len(rows))
    axis.hlines(places, [r.time.p10 for r in rows], [r.time.p95 for r in rows], label="p10 to p95")
    axis.plot([r.time.p50 for r in rows], places, "o", label="median")
    axis.plot([r.time.least for r in rows], places, "|", color="black", label="least")
    many = len({row.threads for row in rows}) > 1
    names = [
        _plain(row.entry.path.name) + (f", {row.threads} threads" if many else "") for row in rows
    ]
    axis.set_yticks(places, names)
    axis.invert_yaxis()
    axis.set(xlabel="ms for one picture", xscale="log")
    axis.grid(alpha=0.3)
    axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as partial:
        figure.savefig(
            partial,
            format=path.suffix[1:],
            metadata={"Date": None} if path.suffix == ".svg" else None,
        )


def _figure(rows: int, columns: int, size: tuple[float, float]) -> Any:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns)


def _svg(figure: Any) -> Markup:
    import matplotlib as mpl

    buffer = io.StringIO()
    # Names in any script: the browser has the fonts for them, which matplotlib lacks.
    with mpl.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])  # made by matplotlib, which escapes
