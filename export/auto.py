"""`auto`: of the files that a target takes and that pass, the fastest one."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnkit import files
from export import formats
from export import targets
from export import timing
from export.judging import Judged

NAME = "auto"
_TARGET = "litert-cpu"
_TURNS = 100
# Two measurements of one file differ by as much: no reason to leave float32.
_GAIN = 0.98


@dataclass(frozen=True)
class Choice:
    """What was chosen, and among what.

    Attributes:
        best: The format; empty if none passed.
        folder: The bundle's folder.
        candidates: Formats that took part.
        told: What was measured, in a sentence.
    """

    best: str
    folder: Path
    candidates: Sequence[str]
    told: str

    def left(self, verdicts: Sequence[Judged], named: Collection[str]) -> list[Judged]:
        """Removes the other candidates' files, and returns the verdicts that are left.

        Args:
            verdicts: On all formats of the bundle; those on candidates stay if none passed.
            named: Formats that stay whatever is chosen.
        """
        gone = {f for f in self.candidates if self.best not in ("", f) and f not in named}
        for verdict in verdicts:
            if verdict.format in gone:
                files.remove(self.folder / verdict.path)
        return [verdict for verdict in verdicts if verdict.format not in gone]


def named(names: Iterable[str]) -> list[formats.Format]:
    """Returns the formats among `names`, without `auto`.

    Raises:
        UsageError: If one is unknown.
    """
    return formats.select(name for name in names if name != NAME)


def candidates(target: str, calibrated: bool) -> list[str]:
    """Returns the formats that a target takes and that can be written here, the best guess first.

    Args:
        target: As `targets.parse` takes it; "none" is LiteRT.
        calibrated: Whether those that need calibration can be written.

    Raises:
        UsageError: If there is no such target.
    """
    found = targets.parse(target) or targets.TARGETS[_TARGET]
    rows = formats.select(found.formats)
    can = [row for row in rows if calibrated or not row.needs_calibration]
    return [row.name for row in can if not row.missing()]


def choose(
    folder: Path,
    name: str,
    verdicts: Sequence[Judged],
    candidates: Sequence[str],
    picture: np.ndarray,
) -> Choice:
    """Returns the fastest of the candidates that passed.

    Each takes the same picture in turns on one thread of this machine, in one process; the least
    time counts, which other work disturbs least. Where there is nothing to time, because a call
    starts a process of its own, the first in the order given is chosen.

    Args:
        folder: The bundle's folder.
        name: Name of the model.
        verdicts: On all formats of the bundle.
        candidates: Formats among them, the best guess first.
        picture: Raw pixels `(height, width, channels)`.
    """
    passed = [v.format for v in verdicts if v.ok and v.format in candidates]
    times = {}
    if len(passed) > 1 and all(formats.get(f).load().QUICK for f in passed):
        paths = {f: folder / formats.get(f).path(name) for f in passed}
        predictors = {
            f: timing.in_process(formats.get(f).module, path, threads=1)
            for f, path in paths.items()
        }
        times = timing.interleaved(predictors, picture, _TURNS)
    return pick(folder, verdicts, candidates, {f: found.least for f, found in times.items()})


def pick(
    folder: Path, verdicts: Sequence[Judged], candidates: Sequence[str], times: Mapping[str, float]
) -> Choice:
    """Returns the choice by milliseconds, which may be known of all that passed or of none.

    A float32 file stays the choice unless another one is clearly faster.
    """
    judged = {v.format: v for v in verdicts}
    passed = [f for f in candidates if judged[f].ok]
    told = [f"{f} {times[f]:.3f} ms" if times else f for f in passed]
    told += [f"{f} is refused ({judged[f].reason})" for f in candidates if f not in passed]
    best = min(passed, key=lambda f: times.get(f, 0.0), default="")
    exact = next((f for f in passed if formats.get(f).variant == "float32"), best)
    if times and times[best] > _GAIN * times[exact]:
        best = exact
    what = f"{NAME} chose {best} on this machine" if best else f"{NAME} has nothing to choose"
    return Choice(best, folder, candidates, f"{what}: {', '.join(told)}")
