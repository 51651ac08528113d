"""The charts of the report, as SVG that stands in the page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

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


def _plain(name: str) -> str:
    # matplotlib reads `$…$` as mathematics; what a font lacks or a line breaks is not for axes.
    return "".join(c if c.isprintable() else "?" for c in name)[:20].replace("$", r"\$")


def _figure(rows: int, columns: int, size: tuple[float, float]) -> Any:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns)


def _svg(figure: Any) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])  # made by matplotlib, which escapes
