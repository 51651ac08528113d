"""`cnnkit doctor`: whether this machine has what cnnkit needs, tried and not only looked up."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import re
import tempfile
from pathlib import Path

from packaging.requirements import Requirement  # comes with Keras

from apps import console
from cnnkit.errors import GateError


def doctor() -> None:
    """Prints versions, tries the GPU, and converts and runs a tiny model in every format."""
    rows = [["python", platform.python_version(), ">=3.11,<3.14", "ok"], *_packages()]
    console.table("Packages", ["package", "version", "needed", "state"], rows)
    with console.hushed():
        trials = [["GPU", _gpu()], *_conversions()]
    console.table("Tried", ["what", "result"], trials)
    bad = [f"{row[0]} {row[-1]}" for row in (*rows, *trials) if row[-1].startswith("FAILED")]
    if bad:
        raise GateError("Something does not work", where=bad[0], todo="`pip install -U cnnkit`")


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
