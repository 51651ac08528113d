"""`cnnkit doctor`: whether this machine has what cnnkit needs, and what raw errors mean."""

from __future__ import annotations

import collections
import importlib
import importlib.metadata
import os
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement  # comes with Keras

from apps import console
from cnnkit.errors import GateError
from cnnkit.errors import UsageError

_DEVELOPERS = {"test"}
# As much of a log as is looked at.
_PART, _PARTS = 1 << 16, 64


def doctor(
    log: Annotated[
        str | None,
        typer.Argument(help="A file with raw errors, or - for standard input.", metavar="LOGFILE"),
    ] = None,
    explain: Annotated[
        str | None, typer.Option(help="The text of a raw error.", metavar="TEXT")
    ] = None,
) -> None:
    """Says what raw errors mean; without any, tries the GPU, and a tiny model in every format."""
    if log is not None or explain is not None:
        _explain("\n".join(text for text in (explain, log and _read(log)) if text))
        return
    rows = [["python", platform.python_version(), ">=3.11,<3.14", "ok"], *_packages()]
    console.table("Packages", ["package", "version", "needed", "state"], rows)
    console.table("Extras", ["extra", "state"], _extras())
    with console.hushed():
        trials = [["GPU", _gpu()], *_conversions()]
    console.table("Tried", ["what", "result"], trials)
    bad = [f"{row[0]} {row[-1]}" for row in (*rows, *trials) if row[-1].startswith("FAILED")]
    if bad:
        raise GateError("Something does not work", where=bad[0], todo="`pip install -U cnnkit`")


def _read(log: str) -> str:
    """Returns the last part of a log; what ends a program stands at the end."""
    try:
        with sys.stdin.buffer if log == "-" else Path(log).open("rb") as file:
            content = collections.deque(iter(lambda: file.read(_PART), b""), maxlen=_PARTS)
    except OSError as error:
        raise UsageError("Cannot read the log", where=log, received=error.strerror) from error
    return b"".join(content).decode(errors="replace")


def _explain(text: str) -> None:
    from cnnkit.data.manifest import printable
    from export import cookbook

    found = cookbook.explain_all(text)
    if not found:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "nothing")
        raise UsageError(
            "No error that cnnkit knows",
            received=printable(last.strip())[:200],
            todo="`cnnkit doctor` without a text tries what is installed",
        )
    for words, cause in found:
        console.out.print(printable(words), style="bold", markup=False)
        console.out.print(f"  cause: {cause.cause}.", markup=False)
        console.out.print(f"  cure: {cause.cure}.", markup=False)


def _extras() -> list[list[str]]:
    """Returns what of each extra is not installed; those for developers are left out."""
    from export.formats import mediapipe

    requirements = [Requirement(line) for line in importlib.metadata.requires("cnnkit") or ()]
    rows = []
    for extra in sorted(importlib.metadata.metadata("cnnkit").get_all("Provides-Extra") or ()):
        if extra in _DEVELOPERS:
            continue
        lacking = [
            wanted.name
            for wanted in requirements
            if wanted.marker is not None
            and wanted.marker.evaluate({"extra": extra})
            and not wanted.marker.evaluate({"extra": ""})
            and not _installed(wanted)
        ]
        if extra == "mediapipe" and (elsewhere := os.environ.get(mediapipe.PYTHON)):
            rows.append([extra, f"in {elsewhere}"])
        elif lacking:
            rows.append([extra, f"no {', '.join(lacking)}: pip install 'cnnkit[{extra}]'"])
        else:
            rows.append([extra, "ok"])
    return rows


def _installed(wanted: Requirement) -> bool:
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return wanted.specifier.contains(version, prereleases=True)


def _packages() -> list[list[str]]:
    rows = []
    for line in importlib.metadata.requires("cnnkit") or ():
        name, needed = re.match(r"([\w.-]+)([^;]*)", line).groups()  # type: ignore[union-attr]
        marker = Requirement(line).marker  # of an extra, or of another system
        if marker is not None and not marker.evaluate({"extra": ""}):
            continue
        try:
            version, state = importlib.metadata.version(name), "ok"
            if _numbers(version) < _numbers(needed):
                state = "FAILED: too old"
        except importlib.metadata.PackageNotFoundError:
            version, state = "-", "FAILED: not installed"
        rows.append([name, version, needed, state])
    return rows


def _numbers(version: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version)[:2]]


def _gpu() -> str:
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    if not found:
        return "none: trains on the CPU"
    try:
        with tf.device("/GPU:0"):
            tf.linalg.matmul(tf.ones((64, 64)), tf.ones((64, 64))).numpy()
    except Exception as error:
        return f"FAILED: {len(found)} found, but not usable: {str(error).splitlines()[0]}"
    return f"ok: {len(found)} usable"


def _conversions() -> list[list[str]]:
    import numpy as np

    from cnnkit import models
    from cnnkit.training.train import deployable
    from export import formats
    from export.convert import convert
    from export.subject import open_subject

    net = models.build("resnet8", (8, 8, 1), 3, width=0.25)
    subject = open_subject(deployable(net, [128.0], [64.0]))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1)).astype(np.uint8)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        jobs = [row.name for row in formats.FORMATS.values() if not row.missing()]
        for done in convert(subject, jobs, Path(folder), calibration=pixels):
            if done.error is None:
                got = formats.get(done.format).load().run(done.path, pixels[:2])
                state = "ok" if np.isfinite(got).all() else "FAILED: gives NaN"
            else:
                state = f"FAILED: {done.error}"
            rows.append([done.format, f"{state} ({done.seconds:.1f} s)"])
    return rows
