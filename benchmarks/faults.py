"""Whole runs under faults: bad files, kills, a full disk, read-only data, two at once, a clock.

    python -m benchmarks.faults               # eight minutes of one core; Linux
    python -m benchmarks.faults kills clock   # only these, again

Each run is the real command in a process of its own. The benchmark starts itself again in
namespaces of its own (`unshare`, as any user may where the system lets users have them), in which
it mounts a small disk and a read-only folder. Rows are kept in `benchmarks/faults.json` as they
come; the table is `benchmarks/faults.md`. 100,000 files are `benchmarks.large_folders`.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import TypeAlias

import numpy as np

from benchmarks import disks
from benchmarks import spoiling
from cnnkit import files
from cnnkit.data import Manifest
from cnnkit.models.saving import load_model

PLACE = Path(__file__)
PROGRAM = Path(sys.executable).with_name("cnnkit")
EPOCHS, KILLS = 24, 20
RECIPE = [
    *("-m", "lenet300", "--set", "model.width=0.2", "--set", "train.batch_size=32"),
    *("--set", f"train.epochs={EPOCHS}"),
]
TRAIN = [*RECIPE, "--deterministic"]
WHOLE, MODEL, STATE = "whole", "model.keras", "checkpoints/state.json"
DAY = 86_400
HEAD = f"""# Whole runs under faults

scikit-learn's digits as a folder of PNG files, {spoiling.PICTURES} of each class, and a small
dense network, {EPOCHS} epochs, `--deterministic`, on one processor. Each line is a real command in
a process of its own, by `python -m benchmarks.faults`; seconds are those of a busy machine. Equal
weights are equal byte for byte to those of the run that nothing happened to. What is said last on
the screen stands behind the semicolon. Of 100,000 files tells `large_folders.md`.

| what was done | expected | seen | exit codes | s | ok |
|---|---|---|---|---|---|
"""
Rows: TypeAlias = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Done:
    """What a command came to.

    Attributes:
        code: Its exit code.
        said: The last line on standard error that is no warning, else of standard output.
    """

    code: int
    said: str


def start(*argv: object, **environment: str) -> subprocess.Popen[str]:
    """Starts the command."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [str(PROGRAM), *map(str, argv)], env={**os.environ, **environment}, **pipes
    )


def finish(child: subprocess.Popen[str]) -> Done:
    """Waits for a command."""
    out, err = child.communicate()
    errors = [line for line in err.splitlines() if not line.startswith("warning: ")]
    return Done(child.returncode, (errors or out.splitlines() or [""])[-1].strip())


def cnnkit(*argv: object, **environment: str) -> Done:
    """Runs the command."""
    return finish(start(*argv, **environment))


def row(done: str, expected: str, seen: str, codes: list[int], ok: bool) -> dict[str, Any]:
    """Returns a row of the table."""
    return {"done": done, "expected": expected, "seen": seen, "codes": codes, "ok": bool(ok)}


def equal(run: Path) -> bool:
    """Returns whether a run has the weights of the one that nothing happened to."""
    if not (run / MODEL).is_file():
        return False
    mine, whole = (load_model(place / MODEL).get_weights() for place in (run, Path(WHOLE)))
    return [w.tobytes() for w in mine] == [w.tobytes() for w in whole]


def told(run: Path) -> str:
    """Returns whether its weights are equal, in words."""
    return "weights equal" if equal(run) else "WEIGHTS DIFFER"


def epochs(run: Path) -> int:
    """Returns how many epochs a run has written whole."""
    state = run / STATE
    return int(json.loads(state.read_text(encoding="utf-8"))["epoch"]) if state.is_file() else 0


def wait(child: subprocess.Popen[str], condition: Callable[[], bool | None]) -> None:
    """Waits until something is so, or a command has ended."""
    while child.poll() is None and not condition():
        time.sleep(0.01)


def bad_files() -> Rows:
    """Pictures that are none, or not what their names say."""
    root = Path("messy")
    wanted = spoiling.spoil(root, spoiling.make(root))
    few = ["--set", "compress.passes=[]", "--set", 'export.formats=["tflite"]']
    done = cnnkit("run", root, *RECIPE, *few, "--run", "messy run", "--out", "messy bundle")
    manifest = Manifest.load("messy run/data.manifest.json")
    found = {p.path: (p.code, p.action) for p in manifest.problems}
    used = {i.id for i in manifest.items if i.id in wanted and "wrong-name" in i.flags}
    kept = {path for path, (_, action) in wanted.items() if action == "kept"}
    kinds = Counter(f"{code} {action}" for code, action in found.values())
    yield row(
        f"`cnnkit run` on a folder with {len(wanted)} bad files: cut JPEG, no bytes, PNG named "
        ".jpg, text named .png, 60,000 x 60,000 pixels declared",
        "ends well; the manifest names these and no others",
        f"{', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))}; {done.said}",
        [done.code],
        done.code == 0 and found == wanted and used == kept,
    )
    strict = cnnkit("check", root, "--strict")
    yield row(
        "`cnnkit check --strict` on it",
        "refused as unusable data",
        strict.said,
        [strict.code],
        strict.code == 4 and f"{len(wanted)} problems" in strict.said,
    )


def kills() -> Rows:
    """`kill -9` at moments drawn from the CPU time of the whole run, then `resume`, and again."""
    rng, whole = np.random.default_rng(0), float(Path(f"{WHOLE}.cpu").read_text())
    struck, codes, runs = Counter[str](), set[int](), list[Path]()
    while struck["all"] < KILLS and codes <= {0}:
        runs.append(Path(f"killed {len(runs)}"))
        run = runs[-1]
        while not (run / MODEL).is_file() and codes <= {0}:
            if (run / "data.manifest.json").is_file():
                child = start("resume", run)
            else:
                begun = (run / "environment.json").is_file()
                child = start("train", "data", *TRAIN, "--out", run, *["--overwrite"] * begun)
            moment = rng.uniform(0, whole) if struck["all"] < KILLS else np.inf
            wait(child, lambda at=moment, of=child: cpu_of(of) >= at)  # type: ignore[misc]
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
            if finish(child).code == -signal.SIGKILL:
                struck.update(["all", _written(run)])
                struck["half"] += bool(half(run))
            else:
                codes.add(child.returncode)
    same = sum(map(equal, runs))
    yield row(
        f"`kill -9` at {KILLS} random moments of `cnnkit train`, and of `cnnkit resume` after it, "
        "until the run ends",
        "every run goes on to equal weights",
        f"{struck['nothing']} kills before anything was written, so that the same `cnnkit train` "
        f"began again; {struck['begun']} before the end of the first epoch; {struck['epochs']} "
        f"later; {struck['half']} of all in the middle of a write. Weights of {same} of the "
        f"{len(runs)} runs equal",
        sorted({-signal.SIGKILL, *codes}),
        codes == {0} and same == len(runs),
    )


def _written(run: Path) -> str:
    if not (run / "data.manifest.json").is_file():
        return "nothing"
    return "epochs" if epochs(run) else "begun"


def cpu_of(child: subprocess.Popen[str]) -> float:
    """Returns the CPU seconds of a process that has not been waited for."""
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def full_disk() -> Rows:
    """A disk that is too small, one that fills up, and an export onto a full one."""
    small, filled, bundle = (disks.mount(name, size) for name, size in DISKS.items())
    done = cnnkit("train", "data", *TRAIN, "--out", small / "run")
    yield _stopped("`cnnkit train` onto a disk of 1.8 MB", done, small / "run")
    disks.enlarge(small, "64m")
    yield _resumed("the disk made larger", small / "run")

    child = start("train", "data", *TRAIN, "--out", filled / "run")
    wait(child, lambda: epochs(filled / "run") >= 3)
    wait(child, lambda: disks.fill(filled))  # which is nothing: until the end
    yield _stopped(
        "another program fills the disk in `cnnkit train`", finish(child), filled / "run"
    )
    disks.free(filled)
    yield _resumed("its file removed", filled / "run")

    argv = ["export", WHOLE, "--format", "savedmodel", "--out", bundle / "out", "--overwrite"]
    first, before = cnnkit(*argv), hashes(bundle / "out")
    disks.fill(bundle, spare=400_000)
    done, after = cnnkit(*argv), hashes(bundle / "out")
    yield row(
        "`cnnkit export --overwrite` onto a disk that is full after 400 kB",
        "a clear line; the old bundle stays whole, nothing half-written",
        f"{done.said} The old bundle {'is' if before == after else 'IS NOT'} whole",
        [first.code, done.code],
        first.code == 0 and _clear(done) and before == after and not half(bundle),
    )
    disks.free(bundle)
    last = cnnkit(*argv)
    yield row("space freed, the same again", "works", last.said, [last.code], last.code == 0)


# The first holds the state of one epoch and not of two.
DISKS = {"small": "1800000", "filled": "16m", "bundle": "16m"}


def half(folder: Path) -> list[Path]:
    """Returns what is half-written."""
    return list(folder.rglob(".*.partial-*"))


def hashes(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file."""
    return {str(p): files.sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def _clear(done: Done) -> bool:
    return done.code == 1 and done.said.startswith("error: Cannot write: ")


def _stopped(what: str, done: Done, run: Path) -> dict[str, Any]:
    kept = epochs(run)
    ok = _clear(done) and kept > 0 and not half(run) and not (run / MODEL).exists()
    expected = "a clear line; the last whole epoch stays, nothing half-written"
    return row(what, expected, f"{done.said} Epoch {kept} is kept", [done.code], ok)


def _resumed(what: str, run: Path) -> dict[str, Any]:
    done = cnnkit("resume", run)
    ok = done.code == 0 and equal(run)
    seen = f"{told(run)}; {done.said}"
    return row(f"{what}, `cnnkit resume`", "equal weights", seen, [done.code], ok)


def read_only() -> Rows:
    """Data that nobody can write into."""
    fixed = disks.read_only("data", "fixed")
    try:
        (fixed / "probe").touch()
        refused = "the system lets a file be made there"
    except OSError as error:
        refused = str(error.strerror)
    before = looks(fixed)
    run = Path("from read-only")
    done = cnnkit("train", fixed, *TRAIN, "--out", run)
    same = looks(fixed) == before
    yield row(
        f"`cnnkit train` on a folder that is mounted read-only ({refused})",
        "equal weights, nothing in the folder changed",
        f"{told(run)}, {'nothing' if same else 'SOMETHING'} changed; {done.said}",
        [done.code],
        done.code == 0 and same and equal(run),
    )


def looks(folder: Path) -> dict[str, tuple[int, int]]:
    """Returns size and time of all that is in a folder."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*")}


def two_runs() -> Rows:
    """Two processes that want one run folder."""
    run = Path("at once")
    children = [start("train", "data", *TRAIN, "--out", run) for _ in range(2)]
    one, other = sorted(map(finish, children), key=lambda done: done.code)
    yield row(
        "`cnnkit train` twice with one run folder, begun at the same moment",
        "one is refused, the other comes to equal weights",
        f"{told(run)}; {other.said}",
        [one.code, other.code],
        (one.code, other.code) == (0, 2) and equal(run),
    )
    run = Path("later")
    first = start("train", "data", *TRAIN, "--out", run)
    wait(first, lambda: epochs(run) > 0)
    first.send_signal(signal.SIGSTOP)  # or it would end before the others have started
    again = cnnkit("train", "data", *TRAIN, "--out", run, "--overwrite")
    resumed = cnnkit("resume", run)
    first.send_signal(signal.SIGCONT)
    done = finish(first)
    yield row(
        "`cnnkit train --overwrite` and `cnnkit resume` on the folder of a run that is going on",
        "both are refused, the run comes to equal weights",
        f"{told(run)}; {again.said}",
        [again.code, resumed.code, done.code],
        [again.code, resumed.code, done.code] == [2, 2, 0] and equal(run),
    )


CLOCK = """import os
import time

shift, now, now_ns = int(os.environ["CLOCK_SHIFT"]), time.time, time.time_ns
time.time = lambda: now() + shift
time.time_ns = lambda: now_ns() + shift * 10**9
"""


def clock() -> Rows:
    """A clock that jumps between a kill and `resume`, with the times of all files."""
    files.write_text(Path("clock/sitecustomize.py"), CLOCK)
    data, run, ends = Path(shutil.copytree("data", "moved")), Path("jumped"), (5, 12, EPOCHS)
    codes = []
    for end, days in zip(ends, (0, 1, -1), strict=True):
        shift = days * DAY
        for path in [*data.rglob("*.png"), *run.rglob("*")]:
            moment = path.stat().st_mtime + shift
            os.utime(path, (moment, moment))
        argv = ["resume", run] if run.is_dir() else ["train", data, *TRAIN, "--out", run]
        child = start(*argv, PYTHONPATH=str(Path("clock").resolve()), CLOCK_SHIFT=str(shift))
        wait(child, lambda: epochs(run) >= end < EPOCHS)  # noqa: B023
        if child.poll() is None and end < EPOCHS:
            child.send_signal(signal.SIGKILL)
        done = finish(child)
        codes.append(done.code)
    events = map(json.loads, (run / "events.jsonl").read_text(encoding="utf-8").splitlines())
    told_by = [round((event["time"] - time.time()) / DAY) for event in events]
    jumps = [day for k, day in enumerate(told_by) if k == 0 or day != told_by[k - 1]]
    yield row(
        "`kill -9`, `cnnkit resume` a day later by the clock and killed too, then a day before the "
        "first; times of pictures and run moved as well",
        "equal weights",
        f"{told(run)}; days that events.jsonl tells: {', '.join(f'{day:+d}' for day in jumps)}",
        codes,
        codes == [-signal.SIGKILL] * 2 + [0] and jumps == [0, 1, -1] and equal(run),
    )


TESTS: dict[str, Callable[[], Rows]] = {
    "bad_files": bad_files,
    "kills": kills,
    "full_disk": full_disk,
    "read_only": read_only,
    "two_runs": two_runs,
    "clock": clock,
}


def prepare() -> None:
    """Makes the data and the run that nothing happens to."""
    spoiling.make(Path("data"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    cnnkit("train", "data", *TRAIN, "--out", WHOLE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    Path(f"{WHOLE}.cpu").write_text(f"{seconds}")


def known() -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of each test that has been made."""
    kept = PLACE.with_suffix(".json")
    return json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}


def write(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Writes the rows of each test, and the table."""
    files.write_json(PLACE.with_suffix(".json"), rows)
    lines = [
        f"| {r['done']} | {r['expected']} | {r['seen'].replace('|', '/')} | "
        f"{', '.join(map(str, r['codes']))} | {r['seconds']:.0f} | {'ok' if r['ok'] else 'NOT'} |"
        for name in TESTS
        for r in rows.get(name, [])
    ]
    files.write_text(PLACE.with_suffix(".md"), HEAD + "\n".join(lines) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Makes what is missing or asked for, and returns 1 if anything was not as expected."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="TEST", help=", ".join(TESTS))
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if not args.apart:
        again = [sys.executable, "-m", "benchmarks.faults", "--apart", *args.names]
        return subprocess.run([*disks.APART, *again], check=False).returncode
    todo = args.names or [name for name in TESTS if name not in known()]
    home = Path.cwd()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        os.chdir(place)
        prepare()
        for name in todo:
            rows, begun = list[dict[str, Any]](), time.monotonic()
            for found in TESTS[name]():
                found["seconds"], begun = time.monotonic() - begun, time.monotonic()
                rows.append(found)
                sys.stdout.write(f"{json.dumps(found)}\n")
                sys.stdout.flush()
            write({**known(), name: rows})
        os.chdir(home)
    return int(not all(found["ok"] for rows in known().values() for found in rows))


if __name__ == "__main__":
    sys.exit(main())
