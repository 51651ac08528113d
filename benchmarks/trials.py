"""Trials: one measurement of several arms with several seeds, kept as they come, as a table.

A benchmark gives its arms, each a function of the seed, and a `Plan`. What is known from the same
settings lies beside the benchmark as `.json` and is not made again; the `.md` is written anew after
every trial.
"""

import argparse
import json
import sys
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import TypeAlias

import numpy as np

from cnnkit import files
from cnnkit.training.significance import paired

# What a trial came to: a number for each column that it has, and what else is to be kept.
Arm: TypeAlias = Callable[[int], Mapping[str, Any]]
SEEDS = 3


@dataclass(frozen=True)
class Plan:
    """What is measured and how it is told.

    Attributes:
        place: The benchmark's `__file__`; its results lie beside it.
        head: Markdown above the table.
        columns: By what the arms return, the head of its column and the format of its numbers,
            such as `("wrong of 10,000", ".1f")`.
        settings: What the numbers depend on besides arm and seed. Numbers of other settings are
            forgotten.
        against: By arm, the arm that it is compared with in the first column, seed by seed.
        note: Makes what stands below the table of the rows; "" is nothing.
    """

    place: str
    head: str
    columns: Mapping[str, tuple[str, str]]
    settings: Mapping[str, Any]
    against: Mapping[str, str]
    note: Callable[[list[dict[str, Any]]], str] | None = None

    @property
    def rows(self) -> Path:
        """Where the numbers are kept."""
        return Path(self.place).with_suffix(".json")

    def known(self) -> list[dict[str, Any]]:
        """Returns the rows of the same settings."""
        if not self.rows.is_file():
            return []
        kept = json.loads(self.rows.read_text(encoding="utf-8"))
        return list(kept["rows"]) if kept["settings"] == json.loads(self._settings()) else []

    def write(self, rows: list[dict[str, Any]], arms: Sequence[str]) -> None:
        """Writes the numbers and the table."""
        rows = sorted(rows, key=lambda row: (arms.index(row["arm"]), row["seed"]))
        files.write_json(self.rows, {"settings": dict(self.settings), "rows": rows})
        lines = [self.head.strip(), "", *self._table(rows, arms)]
        if self.note and (note := self.note(rows)):
            lines += ["", note]
        files.write_text(Path(self.place).with_suffix(".md"), "\n".join(lines) + "\n")

    def _settings(self) -> str:
        return json.dumps(dict(self.settings))

    def _table(self, rows: list[dict[str, Any]], arms: Sequence[str]) -> list[str]:
        first = next(iter(self.columns))
        heads = ["arm", "seeds", *(head for head, _ in self.columns.values())]
        heads += [f"{self.columns[first][0]}: difference, 95 % interval"] if self.against else []
        lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        for arm in arms:
            of_arm = {row["seed"]: row for row in rows if row["arm"] == arm}
            if not of_arm:
                continue
            cells = [arm, str(len(of_arm))]
            for key, (_, form) in self.columns.items():
                cells.append(spread([row[key] for row in of_arm.values() if key in row], form))
            if self.against:
                other = self.against.get(arm)
                base = {row["seed"]: row.get(first) for row in rows if row["arm"] == other}
                both = [(row.get(first), base.get(seed)) for seed, row in of_arm.items()]
                pairs = [mine - its for mine, its in both if None not in (mine, its)]
                form = self.columns[first][1]
                cells.append(difference(pairs, other, form) if other else "")
            lines.append(f"| {' | '.join(cells)} |")
        return lines


def spread(values: Sequence[float], form: str) -> str:
    """Returns mean ± standard deviation of the sample; what is the same for all stands alone."""
    if not values:
        return ""
    mean = f"{np.mean(values):{form}}"
    return f"{mean} ± {np.std(values, ddof=1):{form}}" if len(set(values)) > 1 else mean


def difference(pairs: Sequence[float], other: str, form: str) -> str:
    """Returns the mean difference to `other`, its interval by Student's t, and if it shows."""
    if len(pairs) < 2:
        return "-"
    found = paired(pairs)
    told = f"{found.mean:+{form}} ({found.low:+{form}} to {found.high:+{form}}) against {other}"
    return told if found.shown else f"{told}: none shown"


def run(plan: Plan, arms: Mapping[str, Arm], argv: list[str] | None = None) -> int:
    """Makes what is missing, all arms of a seed before the next seed, and writes the table."""
    parser = argparse.ArgumentParser(description=(plan.head.strip().splitlines() or [""])[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--arms", nargs="+", choices=list(arms), default=list(arms))
    options = parser.parse_args(argv)
    for seed in range(options.seeds):
        for arm in options.arms:
            rows = plan.known()
            if any(row["arm"] == arm and row["seed"] == seed for row in rows):
                continue
            row = {"arm": arm, "seed": seed, **arms[arm](seed)}
            plan.write([*plan.known(), row], list(arms))
            sys.stdout.write(f"{json.dumps(row)}\n")
            sys.stdout.flush()
    plan.write(plan.known(), list(arms))
    return 0
