"""What the verbs print: numbered steps, epochs, warnings and tables."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cnnkit.training.reporter import Reporter

# No emoji: `:cat:` in a path is a path.
out = Console(highlight=False, soft_wrap=True, emoji=False)
_err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


@dataclass
class Settings:
    """What the user asked to see."""

    quiet: bool = False
    verbose: bool = False


settings = Settings()


def error(text: str) -> None:
    """Prints one line on standard error."""
    _err.print(f"[bold red]error:[/] {escape(' '.join(text.splitlines()))}")


def warn(text: str) -> None:
    """Prints a warning on standard error, unless the user wants results only."""
    if not settings.quiet:
        _err.print(f"[yellow]warning:[/] {escape(text)}")


def command() -> str:
    """Returns the command line, for records and reports."""
    return shlex.join(["cnnkit", *sys.argv[1:]])


class Printer(Reporter):
    """Tells the user what happens.

    Args:
        total: Number of stages.
    """

    def __init__(self, total: int) -> None:
        self.total, self.number, self.start = total, 0, time.monotonic()

    def stage(self, text: str) -> None:
        """Starts one of the `total` stages."""
        self.number += 1
        self._print(f"[bold cyan]\\[{self.number}/{self.total}][/] {escape(text)}")

    def step(self, text: str) -> None:
        self._print(f"      {escape(text)}")

    def epoch(self, row: dict[str, Any]) -> None:
        numbers = "  ".join(
            f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float)
        )
        self._print(f"      epoch {row.get('epoch', '')}  {escape(numbers)}")

    def note(self, text: str) -> None:
        self._print(f"      [dim]{escape(text)}[/]")

    def warn(self, text: str) -> None:
        warn(text)

    def done(self) -> None:
        """Prints how long it took."""
        self._print(f"[dim]done in {time.monotonic() - self.start:.0f} s[/]")

    def _print(self, text: str) -> None:
        if not settings.quiet:
            out.print(text)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table; numbers stand to the right."""
    rows = [[cell(value) for value in row] for row in rows]
    out.print(f"[bold]{escape(title)}[/]")
    made = Table()
    for k, name in enumerate(columns):
        right = bool(rows) and all(row[k][:1].isdigit() or row[k][:1] in "-" for row in rows)
        made.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(escape, row))
    # A table that does not fit is better wide than with its cells cut.
    width = max(out.width, 160) if not out.is_terminal else out.width
    Console(file=out.file, width=width, highlight=False, emoji=False).print(made)


def cell(value: Any) -> str:
    """Returns how a value is printed."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def kb(size: int | None) -> str | None:
    """Returns bytes as kilobytes of 1000."""
    return None if size is None else f"{size / 1000:.1f} kB"


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keeps what libraries log off the screen, unless the user wants it.

    TensorFlow and LiteRT write to the file descriptor itself, so that is what is turned away;
    this module keeps the way to the screen.
    """
    if settings.verbose:
        yield
        return
    sys.stderr.flush()
    screen, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    _err.file = os.fdopen(os.dup(screen), "w", buffering=1, encoding="utf-8", errors="replace")
    try:
        yield
    finally:
        _err.file.close()
        _err.file = None  # type: ignore[assignment]  # sys.stderr, whatever it is
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nowhere)
