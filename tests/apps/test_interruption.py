"""Ctrl-C, kill -9 and a full disk: nothing half-written under a final name."""

import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from apps.commands.train import resumable
from cnnkit.errors import CnnkitError
from cnnkit.errors import DivergedError
from tests.apps.conftest import PROGRAM

LONG = ("--set", "train.epochs=9999", "--set", "guard.patience=9999", "--set", "model.width=0.25")
TWO = ("--format", "onnx", "--format", "tflite")


def struck(argv, cwd, condition, number):
    """Starts a command, sends it and its children a signal once `condition` holds.

    Returns its exit code, standard output and standard error.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell that runs the tests in the background has them ignore Ctrl-C, which is inherited.
    group = {
        "start_new_session": True,
        "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    }
    with subprocess.Popen([PROGRAM, *argv], cwd=cwd, **pipes, **group) as child:
        while child.poll() is None and not condition():
            time.sleep(0.02)
        assert child.poll() is None, child.stderr.read()
        os.killpg(child.pid, number)
        out, err = child.communicate()
    return child.returncode, out, err


def test_ctrl_c_in_training(tmp_path):
    run = tmp_path / "run"
    code, _, err = struck(
        ["train", "digits", *LONG, "--out", "run"],
        tmp_path,
        (run / "metrics.csv").exists,
        signal.SIGINT,
    )
    assert code == 130
    assert err == "error: Interrupted. Nothing half-written is left under a final name.\n"
    assert (run / "checkpoints" / "best.keras").is_file()
    assert not (run / "model.keras").exists()
    assert not list(tmp_path.rglob(".*partial*"))


def test_kill_during_export(digits, tmp_path, cnnkit):
    argv = ["export", str(digits.run), *TWO, "--out", "bundle"]

    def begun():
        return any(tmp_path.glob(".bundle.partial-*/onnx/*.onnx"))

    assert struck(argv, tmp_path, begun, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (tmp_path / "bundle").exists()
    # The next one is not disturbed by what is left, and clears it away.
    done = cnnkit("export", digits.run, "--format", "onnx", "--out", "bundle")
    assert (done.code, done.err) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_ctrl_c_during_export_leaves_the_old_bundle(digits, tmp_path):
    shutil.copytree(digits.bundle, tmp_path / "bundle")
    before = (tmp_path / "bundle" / "manifest.json").read_bytes()
    argv = ["export", str(digits.run), *TWO, "--out", "bundle", "--overwrite"]

    def begun():
        return any(tmp_path.glob(".bundle.partial-*/onnx/*.onnx"))

    code, _, err = struck(argv, tmp_path, begun, signal.SIGINT)
    assert code == 130
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == before


def test_a_full_disk(program, tmp_path):
    """A limit on the size of files stands for the disk: the write that crosses it fails."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    argv = ("train", "digits", "--set", "train.epochs=1", "--set", "model.width=0.5")
    done = program(*argv, cwd=tmp_path, preexec_fn=limit)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "Cannot write: runs/digits/" in done.err
    assert not list(Path(tmp_path).rglob("*.keras"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyboardInterrupt(), True),
        (CnnkitError("Cannot write"), True),
        (DivergedError("Training diverged"), False),
    ],
)
def test_what_has_a_checkpoint_can_go_on(tmp_path, capsys, error, told):
    state = tmp_path / "checkpoints" / "state.json"
    for there in (False, True):
        if there:
            state.parent.mkdir()
            state.touch()
        with pytest.raises(type(error)), resumable(tmp_path):
            raise error
        assert ("cnnkit resume" in capsys.readouterr().err.replace("\n", " ")) == (there and told)
