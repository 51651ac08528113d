"""From what is known to `report.html` and `MODEL_CARD.md`, by their templates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import jinja2

from apps.report import content
from cnnkit import files
from cnnkit.data.manifest import printable

if TYPE_CHECKING:
    from export.subject import Subject

PAGE, CARD = "report.html", "MODEL_CARD.md"


def write_report(folder: Path, manifest: dict[str, Any], subject: Subject) -> Path:
    """Writes `report.html` and `MODEL_CARD.md` for the bundle that is being made in `folder`.

    The scores of the file that the report looks at go into `manifest` too.

    Args:
        folder: The bundle's folder, with its artifacts.
        manifest: The bundle's manifest so far.
        subject: The model, its labels and data.
    """
    found = content.facts(folder, manifest, subject)
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


def markdown(text: object) -> str:
    """Returns a text that Markdown shows as it is: on one line, without markup, links or HTML.

    Reference:
        CommonMark 0.31.2, section 2.4: any ASCII punctuation can be escaped by a backslash,
        https://spec.commonmark.org/0.31.2/#backslash-escapes. Differs: nothing.
    """
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", printable(text))


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
