"""Who is told what happens. Library code never prints."""

import json
import time
from pathlib import Path
from typing import Any


class Reporter:
    """Hears about every step and says nothing; programs override what they want to show."""

    def step(self, text: str) -> None:
        """A part of the work begins."""

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch has ended; `row` is its line of `metrics.csv`."""

    def note(self, text: str) -> None:
        """Something worth knowing."""

    def warn(self, text: str) -> None:
        """Something that the user should look at."""


class Journal(Reporter):
    """Writes a line of JSON for everything that it hears, and tells it to another.

    Args:
        path: The file, to which lines are added.
        other: Is told too.
    """

    def __init__(self, path: Path, other: Reporter) -> None:
        self.path, self.other = path, other

    def step(self, text: str) -> None:
        self._write("step", {"text": text})
        self.other.step(text)

    def epoch(self, row: dict[str, Any]) -> None:
        self._write("epoch", row)
        self.other.epoch(row)

    def note(self, text: str) -> None:
        self._write("note", {"text": text})
        self.other.note(text)

    def warn(self, text: str) -> None:
        self._write("warn", {"text": text})
        self.other.warn(text)

    def _write(self, event: str, told: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), "event": event, **told}) + "\n")
