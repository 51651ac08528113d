"""What is installed is what is in the checkout, and the tests test the checkout."""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

import cnnkit

ROOT = Path(__file__).parents[1]
ROOMS = ("cnnkit", "export", "apps")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
CODE = """
import importlib, json, pkgutil
names = set()
for room in ("cnnkit", "export", "apps"):
    for found in pkgutil.walk_packages(importlib.import_module(room).__path__, room + "."):
        names.add(found.name)
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
print(json.dumps(sorted(names)))
"""


def files_of(room):
    return [p for p in (ROOT / room).rglob("*") if p.is_file() and "__pycache__" not in p.parts]


def installed(*command, cwd):
    """Runs something outside of the checkout, as a user does."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("room", ROOMS)
def test_the_checkout_is_tested(room):
    assert Path(importlib.import_module(room).__file__).is_relative_to(ROOT)
    code = f"import {room}; print({room}.__file__)"
    child = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert Path(child.stdout.strip()).is_relative_to(ROOT)


def test_every_folder_with_code_is_a_package_of_the_wheel():
    packages = find_packages(str(ROOT), include=SETUPTOOLS["packages"]["find"]["include"])
    folders = {p.parent.relative_to(ROOT) for r in ROOMS for p in files_of(r) if p.suffix == ".py"}
    assert {".".join(folder.parts) for folder in folders} == set(packages)


@pytest.mark.parametrize("room", ROOMS)
def test_every_other_file_is_in_the_wheel_too(room):
    shipped = {p for g in SETUPTOOLS["package-data"].get(room, ()) for p in (ROOT / room).glob(g)}
    assert {p for p in files_of(room) if p.suffix != ".py"} == shipped


def test_the_installed_copy_is_whole(tmp_path):
    done = installed(sys.executable, "-c", CODE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sources = (p.relative_to(ROOT) for r in ROOMS for p in files_of(r) if p.suffix == ".py")
    wanted = {".".join(p.with_suffix("").parts).removesuffix(".__init__") for p in sources}
    assert set(json.loads(done.stdout)) == wanted - set(ROOMS)


def test_the_installed_command(tmp_path):
    done = installed(Path(sys.executable).with_name("cnnkit"), "list", "models", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "lenet5_caffe" in done.stdout


def test_one_version():
    assert cnnkit.__version__ == PYPROJECT["project"]["version"]
    assert cnnkit.__version__ == importlib.metadata.version("cnnkit")
