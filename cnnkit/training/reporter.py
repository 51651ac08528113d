"""Who is told what happens. Library code never prints."""

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
