"""How the program starts, and what it prints where."""

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from tests.apps import photos
from tests.apps.conftest import PROGRAM

CODE = """
import sys
from apps.cli import main
code = main(sys.argv[1:])
heavy = {"tensorflow", "keras", "sklearn", "matplotlib", "onnx", "onnxruntime", "ai_edge_litert"}
print(code, *sorted(heavy & sys.modules.keys()))
"""
LIGHT = [
    (("--help",), 0),
    (("--version",), 0),
    (("run", "--help"), 0),
    (("frobnicate",), 2),
    (("train", "digits", "--set", "train.epoch=3"), 2),
    (("train", "digits", "--set", "train.epochs=many"), 2),
    (("run", "digits", "--preset", "phne"), 2),
    (("run", "digits", "--set", "export.formats=['tflight']"), 2),
    (("compress", ".", "--pass", "prune"), 2),
    (("compress", ".", "--pass", "prune-filters:ratio=2"), 2),
    (("compress", ".", "--pass", "prune-filters", "--set", "a.b=1"), 2),
    (("ensemble", ".", "--method", "avrage"), 2),
    (("export", ".", "--format", "tflight"), 2),
    (("export", ".", "--set", "a.b=1"), 2),
    (("predict", "nowhere", "nothing"), 2),
    (("verify", "."), 2),
    (("serve", "."), 2),
    (("serve", "nowhere"), 2),
    (("list", "formats"), 0),
    (("list", "passes"), 0),
    (("list", "presets"), 0),
]
COLOUR = re.compile(r"\x1b\[[\d;]*3\d")


@pytest.mark.parametrize(("argv", "code"), LIGHT, ids=[" ".join(argv) for argv, _ in LIGHT])
def test_nothing_heavy_is_imported(argv, code, tmp_path):
    command = [sys.executable, "-c", CODE, *argv]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == str(code), done.stderr


def test_help_is_there_at_once(program, tmp_path):
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = program("--help", cwd=tmp_path)
        times.append(time.perf_counter() - start)
        assert done.code == 0
    assert min(times) < 0.5


def test_without_arguments_the_help(program, tmp_path):
    done = program(cwd=tmp_path)
    assert done.code == 2
    assert "Usage" in done.out + done.err
    assert "error" not in done.err.lower()


def test_a_reader_that_goes_away(tmp_path):
    command = f"'{PROGRAM}' list formats | true"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("verb", [("list", "formats"), ("frobnicate",)])
def test_no_codes_for_colours_without_a_terminal(program, tmp_path, verb):
    done = program(*verb, cwd=tmp_path)
    assert "\x1b" not in done.out + done.err


def on_a_terminal(*argv, **environment):
    """Returns what a command shows on a terminal."""
    master, slave = pty.openpty()
    settings = {**os.environ, "TERM": "xterm-256color", **environment}
    with subprocess.Popen([PROGRAM, *argv], stdout=slave, stderr=slave, env=settings) as child:
        child.wait()
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    return shown


def test_no_color_is_honoured():
    assert COLOUR.search(on_a_terminal("frobnicate"))
    shown = on_a_terminal("frobnicate", NO_COLOR="1")
    assert "Unknown verb" in shown
    assert not COLOUR.search(shown)


def test_an_encoding_that_lacks_a_letter(program, tmp_path):
    photos.folder(tmp_path / "drinks", {"café": 3, "tea": 3})
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = program("check", "drinks", cwd=tmp_path, env=ascii_only)
    assert (done.code, done.err) == (0, "")
    assert r"caf\xe9" in done.out
