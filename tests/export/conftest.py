import pytest

from export import bundle as bundles
from export import formats
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
        manifest["command"] = "a test"

    out = tmp_path_factory.mktemp("bundles") / "corners"
    return bundles.write(subject, list(formats.FORMATS), out=out, extra=report)
