"""Files of a model side by side: time, memory, bytes, and the share of the processor's peak."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnkit import checks
from cnnkit.errors import UsageError
from export import formats
from export import ledger
from export import runtime
from export import timing


@dataclass(frozen=True)
class Entry:
    """A file that takes part.

    Attributes:
        name: The file's path.
        path: The file or folder that is run.
        kind: "keras" or the module of its format.
        shape: Of a picture, (height, width, channels).
        numbers: "float32" or "int8": what most of it is computed in; None if that is not known.
        macs: Multiply-accumulates for a picture, if they are known.
        accuracy: Right answers on the test pictures, as its bundle tells; None outside of one.
        drop: What of the Keras model's accuracy it loses, likewise.
        reference: Whether it is a bundle's Keras model, which is not deployed: no limit counts.
    """

    name: str
    path: Path
    kind: str
    shape: tuple[int, int, int]
    numbers: str | None = None
    macs: int | None = None
    accuracy: float | None = None
    drop: float | None = None
    reference: bool = False


@dataclass(frozen=True)
class Result:
    """What was measured on a file.

    Attributes:
        entry: The file.
        threads: Of its runtime.
        time: Milliseconds for a picture.
        size_bytes: Of the file, or of all files of a folder.
        memory_bytes: By how much running it raises a process' memory; None if unknown.
        share: Of the operations a second that matrix products of the same numbers reach on as many
            threads; None where its operations or numbers are not known.
    """

    entry: Entry
    threads: int
    time: timing.Timing
    size_bytes: int
    memory_bytes: int | None
    share: float | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the row as JSON has it."""
        own = {**vars(self.entry), **vars(self), "time": asdict(self.time)}
        return {k: str(v) if isinstance(v, Path) else v for k, v in own.items() if k != "entry"}


def entries(sources: Iterable[str | Path]) -> list[Entry]:
    """Returns what there is to run: all files of a bundle, the model of a run, single files.

    Raises:
        UsageError: If a source is none of these.
    """
    return [entry for source in sources for entry in _entries(Path(source))]


def measure(
    taking_part: Sequence[Entry],
    *,
    threads: Sequence[int] = (1,),
    turns: int = 50,
    told: Callable[[str], None] = lambda _: None,
) -> tuple[list[Result], dict[int, dict[str, float]]]:
    """Returns a row for each file and number of threads, and the arithmetic's peaks by threads.

    With each number of threads the files take one picture each in turns, in one process.

    Args:
        taking_part: From `entries`.
        threads: Numbers of threads, each at least 1; TensorFlow and Keras take what they like.
        turns: How often each file is called, at least 1.
        told: Told what is going on.

    Raises:
        UsageError: If a file cannot be run.
    """
    for count in threads:
        checks.integer("bench", "threads", count, 1)
    checks.integer("bench", "repeat", turns, 1)
    memory = {}
    for entry in taking_part:
        told(f"memory of {entry.name}")
        memory[entry.path] = timing.peak_memory(entry.path, entry.shape)
    found, peaks = [], {}
    for count in threads:
        told(f"{turns} turns with {count} thread{'s' * (count > 1)}")
        peaks[count] = timing.peak_gops(count)
        # Pictures of each shape on their own: a picture belongs to all who take part.
        for shape in dict.fromkeys(entry.shape for entry in taking_part):
            alike = {str(e.path): e for e in taking_part if e.shape == shape}
            predictors = {p: timing.in_process(e.kind, e.path, count) for p, e in alike.items()}
            picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
            times = timing.interleaved(predictors, picture, turns)
            found += [
                _result(entry, count, times[path], memory[entry.path], peaks[count])
                for path, entry in alike.items()
            ]
    return found, peaks


def breaches(
    result: Result,
    *,
    max_latency: float | None = None,
    max_size: int | None = None,
    max_drop: float | None = None,
) -> list[str]:
    """Returns which limits a row does not keep, in words.

    Args:
        result: The row.
        max_latency: Milliseconds that the median may have.
        max_size: Bytes that the file may have.
        max_drop: What of the model's accuracy it may lose, as a fraction.

    Raises:
        UsageError: If the accuracy is asked for and not known.
    """
    if result.entry.reference:
        return []
    found = []
    if max_latency is not None and result.time.p50 > max_latency:
        found.append(f"takes {result.time.p50:.3g} ms, --max-latency is {max_latency:g}ms")
    if max_size is not None and result.size_bytes > max_size:
        found.append(f"has {result.size_bytes} bytes, --max-size is {max_size}")
    if max_drop is not None:
        if result.entry.drop is None:
            raise UsageError(
                "The accuracy of this file is not known",
                where=result.entry.name,
                todo="leave --max-drop out, or give the bundle that it is in",
            )
        if result.entry.drop > max_drop + 1e-9:
            found.append(f"loses {result.entry.drop:.4f} of accuracy, --max-drop is {max_drop:g}")
    return found


def _entries(source: Path) -> list[Entry]:
    from export.bundle import Bundle

    if not (source / Bundle.MANIFEST).is_file():
        opened = runtime.open_model(source)
        return [Entry(str(source), opened.path, opened.kind, opened.input_shape)]
    bundle = Bundle.open(source)
    height, width, channels = bundle.manifest["input"]["shape"]
    model, known = bundle.manifest["ledger"][-1], {}
    for verdict in bundle.manifest["verdicts"]:
        known[verdict["format"]] = verdict
    found = [
        Entry(
            str(source / Bundle.KERAS),
            source / Bundle.KERAS,
            "keras",
            (height, width, channels),
            "float32",
            model["macs"],
            model["accuracy"],
            reference=True,
        )
    ]
    for name in bundle.artifacts:
        row, verdict = formats.get(name), known[name]
        path, module = source / row.path(bundle.name), row.load()
        found.append(
            Entry(
                str(path),
                path,
                row.module,
                tuple(module.input_shape(path)),
                "int8" if row.variant == "int8" else "float32",
                model["macs"],
                verdict["accuracy"],
                None
                if None in (verdict["accuracy"], verdict["model_accuracy"])
                else verdict["model_accuracy"] - verdict["accuracy"],
            )
        )
    return found


def _result(
    entry: Entry,
    threads: int,
    time: timing.Timing,
    memory: int | None,
    peaks: dict[str, float],
) -> Result:
    share = None
    if entry.macs and entry.numbers:
        share = 2 * entry.macs / (1e6 * time.least) / peaks[entry.numbers]
    return Result(entry, threads, time, ledger.sizes(entry.path)[0], memory, share)
