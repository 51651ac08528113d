import os
import subprocess
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Programs that tests start on JAX compute little: compiling it well would take longer.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Programs that tests start shall run the checkout, not a copy in site-packages.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])

import cnnkit  # noqa: F401, I001  # its settings of TensorFlow, before that is imported
import pytest


@pytest.fixture(autouse=True)
def _fresh_state():
    import keras

    policy = keras.config.dtype_policy()
    floatx = keras.config.floatx()
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_floatx(floatx)


@pytest.fixture(scope="session")
def mediapipe_python():
    """A Python that has MediaPipe: the one that is named, the checkout's own, or this one."""
    own = Path(__file__).parents[1] / ".venv-mediapipe" / "bin" / "python"
    look = "import importlib.util, sys; sys.exit(not importlib.util.find_spec('mediapipe'))"
    for python in (os.environ.get("CNNKIT_MEDIAPIPE"), own, sys.executable):
        command = [python, "-I", "-c", look]
        if python and Path(python).exists() and not subprocess.run(command).returncode:
            return str(python)
    pytest.fail(
        "No Python has MediaPipe. Type: python3 -m venv .venv-mediapipe && "
        ".venv-mediapipe/bin/pip install mediapipe pillow"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives each worker tests that follow each other, and in the end half of what another has left.

    So what a module or a folder shares is made by one of them, and all end at the same time.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    # A contract for a kind that has no parts yet would be reported as skipped.
    items[:] = [item for item in items if "[NOTSET" not in item.name]
    for item in items:
        spec = _spec(item)
        if spec and spec.deep:
            item.add_marker("deep")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    import keras  # not by the process that only hands the tests to others

    keras.utils.set_random_seed(0)  # before the fixtures of modules, too
    spec = _spec(item)
    reason = spec and spec.exempt.get(item.originalname)
    if reason:
        item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _spec(item):
    """Returns the spec that a contract is run on, or None."""
    return getattr(item, "callspec", None) and item.callspec.params.get("spec")
