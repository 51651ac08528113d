import os

import pytest

from export import bundle as bundles
from export import formats
from export import pipeline
from tests.export import corners

REPORT = "<p>the report</p>"


@pytest.fixture(scope="session")
def npz(tmp_path_factory):
    """A file of labelled 8x8 pictures."""
    return corners.save(tmp_path_factory.mktemp("data") / "corners.npz")


@pytest.fixture(scope="session")
def subject(npz):
    return corners.subject(npz)


@pytest.fixture(scope="session")
def bundle(subject, tmp_path_factory):
    """All formats of one model. Tests read it; those that change something take `own_bundle`."""

    def report(folder, manifest):
        (folder / "report.html").write_text(REPORT)
        (folder / "MODEL_CARD.md").write_text("# The card\n")
        manifest["command"] = "a test"

    out = tmp_path_factory.mktemp("bundles") / "corners"
    return bundles.write(subject, list(formats.FORMATS), out=out, extra=report)


@pytest.fixture(scope="session")
def run(subject, tmp_path_factory):
    """A run folder with the same model. Read only."""
    return pipeline.write_run(pipeline.compress(subject, []), tmp_path_factory.mktemp("runs") / "r")


@pytest.fixture
def child_runs(tmp_path, monkeypatch):
    """Returns a function that has every child run some code when it starts."""

    def plant(code):
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}")

    return plant
