"""Conversion in child processes: a converter that dies takes only its own format with it.

The child is `python -m export.convert JOB.json`. It loads the model once and works through the
formats. Its standard output carries one JSON object a line for each of them, in order:
`{"seconds": …, "notes": […]}`, or `{"error": …, "detail": …, "fatal": …}`.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any
from typing import TextIO

import numpy as np

from cnnkit import files
from cnnkit.errors import CnnkitError
from cnnkit.errors import UsageError
from export import cookbook
from export import formats
from export.formats import probe

if TYPE_CHECKING:
    from cnnkit.training.reporter import Reporter
    from export.subject import Subject

TIMEOUT_S = 900.0
_DETAIL_LINES = 30
_LOG = "log.txt"
# Keras and TensorFlow import these where they are installed, in which a child would spend a third
# of its start, and convert nothing with them.
_IDLE = ("jax", "matplotlib", "sklearn")
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Conversion:
    """What became of one format.

    Attributes:
        format: Name of the format.
        path: Where the file or folder is, or would be.
        seconds: Time it took to write.
        error: Why there is no file, and what to do, in one line; None if there is one.
        detail: The end of the raw error, for those who want to see it.
        notes: What the user should know about a file that was written.
    """

    format: str
    path: Path
    seconds: float = 0.0
    error: str | None = None
    detail: str = ""
    notes: tuple[str, ...] = ()


def convert(
    subject: Subject,
    jobs: Sequence[str],
    folder: Path,
    *,
    calibration: np.ndarray | None = None,
    reporter: Reporter | None = None,
    timeout_s: float = TIMEOUT_S,
) -> list[Conversion]:
    """Writes a model in every format of `jobs` under `folder` and returns what became of each.

    Args:
        subject: The deployable model with its name, labels and resize rule.
        jobs: Names of formats.
        folder: The bundle's folder.
        calibration: Raw pixels `(n, height, width, channels)` for the formats that need them,
            unless the subject has learned ranges.
        reporter: Told what is being converted and what failed.
        timeout_s: Longest time for one format.

    Raises:
        UsageError: If a format is unknown, or lacks its calibration pictures.
        CnnkitError: If `folder` cannot be written.
    """
    pending = formats.select(jobs)
    learned = subject.ranges
    if (
        calibration is None
        and learned is None
        and (needy := [row.name for row in pending if row.needs_calibration])
    ):
        raise UsageError(
            "Formats without calibration pictures",
            where=", ".join(needy),
            todo="give data to calibrate with, or leave these formats out",
        )
    done: list[Conversion] = []
    with tempfile.TemporaryDirectory() as work:
        job = Path(work, "job.json")
        subject.model.save(job.with_name("model.keras"))
        if calibration is not None:
            np.save(job.with_name("calibration.npy"), calibration)
        while rest := pending[len(done) :]:
            tasks = [(row.name, str(folder / row.path(subject.name))) for row in rest]
            content = {
                "tasks": tasks,
                "labels": subject.labels,
                "resize": subject.resize,
                "ranges": None if learned is None else dict(learned),
            }
            files.write_json(job, content)
            done += _attempt(job, tasks, reporter, timeout_s)
    return done


def _attempt(
    job: Path, tasks: list[tuple[str, str]], reporter: Reporter | None, timeout_s: float
) -> list[Conversion]:
    """Runs one child until it has finished or died; its death is the last task's failure."""
    done: list[Conversion] = []
    command = [sys.executable, "-P", "-m", "export.convert", str(job)]
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "KERAS_BACKEND": "tensorflow",
        "TMPDIR": str(job.parent),  # so that what a killed child leaves there goes too
    }
    log = job.with_name(_LOG)
    log.write_bytes(b"")
    with (
        log.open("ab") as stderr,  # at the end, since the child empties it
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True
        ) as child,
    ):
        try:
            for name, place in tasks:
                if reporter:
                    reporter.step(f"exporting {name}")
                begun = time.monotonic()
                late = threading.Timer(timeout_s, child.kill)
                late.daemon = True  # an interrupted program does not wait for it
                late.start()
                line = child.stdout.readline() if child.stdout else ""
                late.cancel()
                told = json.loads(line) if line.endswith("\n") else None
                if told is None:  # it died
                    told = _epitaph(child.wait(), log.read_text(errors="replace"))
                    files.remove_orphans(Path(place))
                    if time.monotonic() - begun > timeout_s:
                        told["error"] = f"The conversion was not done within {timeout_s:g} s."
                if told.pop("fatal", False):
                    raise CnnkitError(told["error"])
                told["notes"] = tuple(told.get("notes", ()))
                done.append(Conversion(name, Path(place), **told))
                if reporter and done[-1].error:
                    reporter.warn(f"{name}: {done[-1].error}")
                if child.poll() is not None and not line:
                    break
        finally:
            child.kill()
    return done


def _epitaph(code: int, log: str) -> dict[str, Any]:
    """Returns why a child died, from its exit code and what it last wrote."""
    detail = "\n".join(log.splitlines()[-_DETAIL_LINES:])
    if code == -signal.SIGKILL:  # nothing that it wrote is the reason
        error = "The converter's process was killed, most often for want of memory."
    elif found := cookbook.explain(log):
        error = str(found)
    else:
        last = (detail.splitlines() or ["without a word"])[-1]
        error = f"The converter's process ended with {probe.ended(code)}: {last}"
    return {"error": error, "detail": detail}


def _end_with_parent(parent: int) -> None:
    """Ends this process when its parent is gone, so that it writes nothing any more."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _work(job: Path) -> None:
    """The child: converts every task and tells what became of it."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    # Libraries print to standard output too: they get standard error, the protocol keeps its own.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.modules.update(dict.fromkeys(_IDLE))  # type: ignore[arg-type]  # makes `import name` fail
    gc.disable()  # what is imported stays: to look for garbage in it takes a quarter of the time
    from cnnkit.models.saving import load_model

    gc.freeze()
    gc.enable()
    todo = json.loads(job.read_text(encoding="utf-8"))
    try:
        model = load_model(job.with_name("model.keras"))
    except CnnkitError as error:  # such as a layer that only the parent knows
        _tell(channel, {"error": str(error), "fatal": True})
        return
    samples = job.with_name("calibration.npy")
    calibration = np.load(samples, allow_pickle=False) if samples.exists() else None
    for name, place in todo["tasks"]:
        row, path, start = formats.get(name), Path(place), time.perf_counter()
        told: dict[str, Any]
        os.truncate(job.with_name(_LOG), 0)  # what was logged of others explains nothing
        try:
            module = row.load()
            options = {"labels": todo["labels"], "resize": todo["resize"]}
            if row.needs_calibration:
                options |= {"calibration": calibration, "ranges": todo["ranges"]}
            module.write(model, path, variant=row.variant, **options)
            notes = module.notes(path) if hasattr(module, "notes") else []
            told = {"seconds": round(time.perf_counter() - start, 3), "notes": notes}
        except CnnkitError as error:
            told = {"error": str(error), "fatal": type(error) is CnnkitError}
        except Exception as error:
            raw = "".join(traceback.format_exception(error))
            found = cookbook.explain(str(error))
            told = {
                "error": str(found or f"{type(error).__name__}: {error}".split("\n")[0]),
                "detail": "\n".join(raw.splitlines()[-_DETAIL_LINES:]),
                "fatal": found is not None and found.cause == cookbook.FULL_DISK,
            }
        _tell(channel, told)


def _tell(channel: TextIO, told: dict[str, Any]) -> None:
    channel.write(json.dumps(told) + "\n")
    channel.flush()  # what an error holds may never be closed


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
