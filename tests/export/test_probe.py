"""A runtime in a process of its own, in which anything may happen."""

import numpy as np
import pytest

from cnnkit.errors import UsageError
from export.formats.probe import Probe

X = np.arange(6, dtype=np.uint8).reshape(3, 2)
START = "import os, signal, sys\nimport numpy as np\nfile, x, y, *options = sys.argv[1:]\n"


@pytest.fixture
def outputs(tmp_path):
    """Returns a function that runs some code as a probe."""
    script = tmp_path / "script.py"

    def call(code, *options, **settings):
        script.write_text(START + code)
        return Probe(script, "It cannot run", **settings).outputs(tmp_path / "f", X, *options)

    return call


def test_outputs_and_what_was_printed(outputs):
    y, printed = outputs("np.save(y, 2 * np.load(x)); print(file[-1], *options)", "a", "b")
    np.testing.assert_array_equal(y, 2 * X)
    assert printed == "f a b\n"


@pytest.mark.parametrize(
    ("code", "settings", "told"),
    [
        ("raise KeyError('k')", {}, r"It cannot run: .*f\. Received KeyError: 'k'\.$"),
        ("sys.exit(3)", {}, r"It cannot run: .*f\. Received exit code 3\.$"),
        ("sys.exit('why\\n\\nlast')", {}, r"Received last\.$"),
        ("sys.exit('why\\n\\nlast')", {"line": 0}, r"Received why\.$"),
        ("os.abort()", {}, r"It cannot run: .*f\. Received SIGABRT\.$"),
        (
            "sys.stderr.write('1\\n2'); sys.stderr.flush(); os.abort()",
            {},
            r"Received SIGABRT: 2\.$",
        ),
        # What the cookbook knows.
        ("os.kill(os.getpid(), signal.SIGKILL)", {}, r"for want of memory.*f\. Received SIGKILL\."),
        ("raise MemoryError", {}, r"not enough memory: .*f\. Received MemoryError\. Close other"),
    ],
)
def test_a_crash(outputs, code, settings, told):
    with pytest.raises(UsageError, match=told) as error:
        outputs(code, **settings)
    assert "\n" not in str(error.value)


def test_time_is_limited(outputs):
    with pytest.raises(UsageError, match=r"It cannot run in time: .*f\. Expected 0\.5 s\.$"):
        outputs("signal.pause()", timeout_s=0.5)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("", r"Received .*No such file"),
        ("open(y, 'w').close()", r"Received No data left in file"),
        ("open(y, 'wb').write(b'no numbers')", r"Received .*pickle"),
        ("np.save(y, np.array([{}]))", r"Received .*allow_pickle=False"),
        (
            "np.save(y, np.zeros(9)); os.truncate(y, 150)",
            r"Received cannot reshape|Received .*read",
        ),
        ("np.save(y, np.zeros((2, 5)))", r"Expected outputs for 3 pictures\. Received .*\(2, 5\)"),
        ("np.save(y, 1.0)", r"Expected outputs for 3 pictures\. Received .*\(\)"),
    ],
)
def test_an_answer_that_is_none(outputs, code, told):
    with pytest.raises(UsageError, match=rf"^It cannot run: .*f\. {told}"):
        outputs(code)


def test_the_environment(outputs, monkeypatch):
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("GONE", "1")
    code = "np.save(y, np.load(x)); print('KEPT' in os.environ, 'GONE' in os.environ)"
    assert outputs(code, unset=("GONE",))[1] == "True False\n"


def test_nothing_is_imported_from_here_but_by_wish(outputs, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "beside.py").write_text("")
    code = "np.save(y, np.load(x))\nimport beside"
    with pytest.raises(UsageError, match="No module named 'beside'"):
        outputs(code)
    outputs(code, flags=())
