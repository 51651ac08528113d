"""Scripts that run a file in a runtime, each in a process of its own: what they answer, or why not.

A runtime that crashes or hangs takes its own process with it, and one that wants other libraries,
settings or even another Python than cnnkit has them there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnkit.errors import UsageError
from export import cookbook

# Of a traceback, they say where in the sources, and not what.
_PLACES = ("Traceback", " ")


@dataclass(frozen=True)
class Probe:
    """A script that takes a file, and what to say when it fails.

    Attributes:
        script: Where it lies.
        failure: Such as "MediaPipe cannot run this file".
        flags: Of Python; "-I" keeps this process' folder and `PYTHONPATH` out.
        unset: Environment variables that it must not see.
        line: Which line of its standard error tells best what is wrong.
        timeout_s: How long it may take.
    """

    script: Path
    failure: str
    flags: tuple[str, ...] = ("-I",)
    unset: tuple[str, ...] = ()
    line: int = -1
    timeout_s: float = 600.0

    def outputs(
        self, file: Path, x: np.ndarray, *options: str, python: str = sys.executable
    ) -> tuple[np.ndarray, str]:
        """Runs `SCRIPT FILE x.npy y.npy OPTIONS`, which writes outputs, and returns them.

        Args:
            file: What is run.
            x: Inputs, one a row.
            options: For the script.
            python: That runs the script.

        Returns:
            The outputs, one a row, and what the script printed.

        Raises:
            UsageError: If the script fails, is late, or writes no outputs.
        """
        with tempfile.TemporaryDirectory() as folder:
            x_path, y_path = Path(folder, "x.npy"), Path(folder, "y.npy")
            np.save(x_path, x)
            printed = self.answer(file, str(x_path), str(y_path), *options, python=python)
            try:
                y = np.load(y_path, allow_pickle=False)
            except (OSError, EOFError, ValueError) as error:
                raise UsageError(self.failure, where=file, received=error) from error
        if y.shape[:1] != x.shape[:1]:
            raise UsageError(
                self.failure,
                where=file,
                expected=f"outputs for {len(x)} pictures",
                received=f"an array of shape {y.shape}",
            )
        return y, printed

    def answer(self, file: Path, *arguments: str, python: str = sys.executable) -> str:
        """Runs `SCRIPT FILE ARGUMENTS`, and returns what it printed.

        Raises:
            UsageError: If the script fails or is late.
        """
        try:
            done = subprocess.run(
                [python, *self.flags, str(self.script), str(file), *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout_s,
                env={name: value for name, value in os.environ.items() if name not in self.unset},
            )
        except subprocess.TimeoutExpired as error:
            raise UsageError(
                f"{self.failure} in time", where=file, expected=f"{self.timeout_s:g} s"
            ) from error
        if not done.returncode:
            return done.stdout
        how = ended(done.returncode)
        lines = [s for s in done.stderr.splitlines() if s.strip() and not s.startswith(_PLACES)]
        line = lines[self.line] if lines else how
        found = cookbook.explain(f"{done.stderr}\n{how}")
        raise UsageError(
            found.cause if found else self.failure,
            where=file,
            received=line if done.returncode > 0 or not lines else f"{how}: {line}",
            todo=found.cure if found else "",
        )


def ended(code: int) -> str:
    """Returns how a process ended that has this exit code.

    Example:
        >>> ended(3), ended(-9)
        ('exit code 3', 'SIGKILL')
    """
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
