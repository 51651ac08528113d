"""What `cnnkit doctor` says of raw errors, and of what is installed."""

import importlib.metadata
import io
import sys

import pytest

from apps.commands import doctor

OPCODE = "ValueError: Didn't find op for builtin opcode 'CONV_2D' version '6'."
LOG = f"""\
Traceback (most recent call last):
  File "app.py", line 3, in <module>
No versions of servable digits found under base path /models
{OPCODE}
"""
TOLD = [
    "No versions of servable digits found",
    "  cause: TF Serving found no version folder of digits.",
    "  cure: point `base_path` at the folder that holds the folder `1`.",
    "Didn't find op for builtin opcode 'CONV_2D' version '6'",
    "  cause: The runtime is older than the file: it lacks version 6 of CONV_2D.",
    "  cure: update the runtime on the device, or convert with the TensorFlow of its time.",
]


def test_a_log_in_a_file(cnnkit, tmp_path):
    # A log may be long, and of any encoding; its end is what counts.
    (tmp_path / "log.txt").write_bytes(
        b"\xff\xfe MemoryError\n" + b"noise\n" * 800_000 + LOG.encode()
    )
    done = cnnkit("doctor", "log.txt")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == TOLD


def test_a_log_that_comes_through_a_pipe(cnnkit, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LOG.encode())))
    assert cnnkit("doctor", "-").out.splitlines() == TOLD


def test_a_text(cnnkit):
    done = cnnkit("doctor", "--explain", OPCODE)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == TOLD[3:]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("--explain", "all is well"), "No error that cnnkit knows. Received all is well"),
        (("--explain", ""), "No error that cnnkit knows. Received nothing"),
        (("nowhere.txt",), "Cannot read the log: nowhere.txt. Received No such file or directory"),
    ],
)
def test_what_it_does_not_know(cnnkit, argv, told):
    done = cnnkit("doctor", *argv)
    assert (done.code, done.out) == (2, "")
    assert told in done.errors[0]


def test_what_of_the_extras_is_missing(monkeypatch):
    wanted = ["numpy>=2", 'absent>=1; extra == "serve"', 'numpy>=99; extra == "serve"']
    wanted += ['numpy>=1; extra == "micro"', 'numpy>=1; extra == "test"']
    metadata = importlib.metadata.metadata("cnnkit")
    del metadata["Provides-Extra"]
    for extra in ("serve", "micro", "test", "mediapipe"):
        metadata["Provides-Extra"] = extra
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: metadata)
    monkeypatch.setenv("CNNKIT_MEDIAPIPE", "/some/python")
    assert doctor._extras() == [
        ["mediapipe", "in /some/python"],
        ["micro", "ok"],
        ["serve", "no absent, numpy: pip install 'cnnkit[serve]'"],
    ]
