import subprocess
import sys

import keras
import numpy as np
import pytest

from cnnkit.errors import CnnkitError
from cnnkit.errors import UsageError
from export import formats
from export.convert import convert
from export.subject import open_subject
from tests.export import corners

pytestmark = pytest.mark.export
FAST = ["tflite", "onnx"]


class Told:
    """A reporter that remembers."""

    def __init__(self):
        self.steps, self.warnings = [], []
        self.step, self.warn = self.steps.append, self.warnings.append


@pytest.fixture
def alone():
    return corners.without_data()


def files_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_every_format_comes_out(bundle):
    assert [row["format"] for row in bundle.manifest["verdicts"]] == list(formats.FORMATS)
    assert bundle.refused == {}


def test_what_is_told_of_each(alone, tmp_path):
    told = Told()
    fractions = np.random.default_rng(0).uniform(0, 1, (8, *corners.SHAPE)).astype("float32")
    jobs = ["tflite", "tflite-int8", "onnx", "tflite"]
    done = convert(alone, jobs, tmp_path, calibration=fractions, reporter=told)
    assert [each.format for each in done] == jobs[:3]
    assert [each.error is None for each in done] == [True, False, True]
    assert all(each.path.is_file() and each.seconds > 0 for each in (done[0], done[2]))
    assert "The calibration pictures are not raw pixels" in done[1].error
    assert told.steps == ["exporting tflite", "exporting tflite-int8", "exporting onnx"]
    assert told.warnings == [f"tflite-int8: {done[1].error}"]
    assert files_in(tmp_path) == ["onnx/corners_float32.onnx", "tflite/corners_float32.tflite"]


def test_a_death_takes_its_own_format_only(alone, tmp_path, child_runs):
    """An abort as of LLVM, an exit as of a broken library, the kernel's out-of-memory killer.

    What earlier formats logged must not explain them: LiteRT mentions XNNPACK each time, and the
    cookbook knows an error with that word.
    """
    child_runs(
        """
import os
import sys
import export.formats
from cnnkit import files

load = export.formats.module
deaths = {
    "_float32.onnx": os.abort,
    "saved_model_1": lambda: os._exit(3),
    "_dynamic.tflite": lambda: os.kill(os.getpid(), 9),
}

def patched(name):
    module = load(name)
    write = module.write

    def dying(model, path, **options):
        end = next((end for end in deaths if f"{name}_{path.name}".endswith(end)), None)
        if end is None:
            return write(model, path, **options)
        with files.replacing(path) as partial:
            partial.write_bytes(b"half")
            print("half done", file=sys.stderr, flush=True)
            deaths[end]()

    if not hasattr(module, "patched"):
        module.patched, module.write = True, dying
    return module

export.formats.module = patched
""".replace("onnx_float32", "corners_float32")
    )
    told, out = Told(), tmp_path / "out"
    jobs = ["tflite", "onnx", "savedmodel", "tflite-dynamic", "tflite-fp16"]
    done = {each.format: each for each in convert(alone, jobs, out, reporter=told)}
    assert list(done) == jobs
    assert {name: each.error for name, each in done.items()} == {
        "tflite": None,
        "onnx": "The converter's process ended with SIGABRT: half done",
        "savedmodel": "The converter's process ended with exit code 3: half done",
        "tflite-dynamic": "The converter's process was killed, most often for want of memory.",
        "tflite-fp16": None,
    }
    assert done["onnx"].detail.endswith("half done")
    assert [warning.split(":")[0] for warning in told.warnings] == jobs[1:4]
    assert files_in(out) == ["tflite/corners_float16.tflite", "tflite/corners_float32.tflite"]


def test_a_conversion_that_takes_too_long_is_killed(alone, tmp_path):
    done = convert(alone, FAST, tmp_path / "out", timeout_s=0.5)
    assert [each.error for each in done] == 2 * ["The conversion was not done within 0.5 s."]
    assert files_in(tmp_path) == []


def test_a_known_error_is_explained_and_its_end_kept(alone, tmp_path, child_runs):
    child_runs(
        """
import export.formats
load = export.formats.module

def fail(*args, **options):
    raise ValueError("No Op registered for Erfinv with domain_version of 18\\nand a long trace")

def patched(name):
    module = load(name)
    module.write = fail
    return module

export.formats.module = patched
"""
    )
    (failed,) = convert(alone, ["onnx"], tmp_path / "out")
    assert failed.error == (
        "ONNX has no op for Erfinv. Replace the layer that uses it, or export to TFLite or "
        "SavedModel."
    )
    assert failed.detail.startswith("Traceback")
    assert failed.detail.endswith("and a long trace")


def test_an_op_that_some_formats_lack_fails_in_these_only(tmp_path):
    net = corners.network(end="logits")
    odd = keras.ops.erfinv(keras.ops.tanh(net.output))
    jobs = [*FAST, "savedmodel"]
    done = convert(open_subject(keras.Model(net.input, odd, name="odd")), jobs, tmp_path)
    assert [each.error is None for each in done] == [False, False, True]
    assert all("Erfinv" in each.error for each in done[:2])
    assert all(file.startswith("serving/odd/1/") for file in files_in(tmp_path))


@keras.saving.register_keras_serializable("tests")
class KnownHereOnly(keras.layers.Layer):
    def call(self, x):
        return x + 1.0


def test_a_layer_that_only_the_parent_knows_is_named_once(tmp_path):
    net = corners.network(end="logits")
    model = keras.Model(net.input, KnownHereOnly(name="own")(net.output))
    with pytest.raises(CnnkitError, match=r"'KnownHereOnly', which is not known here"):
        convert(open_subject(model), FAST, tmp_path)
    assert files_in(tmp_path) == []


def test_unknown_formats_and_missing_calibration_are_refused_at_once(alone, tmp_path):
    with pytest.raises(UsageError, match=r"Unknown format 'tflte'. Closest: .*tflite"):
        convert(alone, ["onnx", "tflte"], tmp_path)
    with pytest.raises(UsageError, match=r"without calibration pictures: tflite-int8, onnx-int8"):
        convert(alone, ["tflite", "tflite-int8", "onnx-int8"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_stops_everything(alone, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(CnnkitError, match=r"Cannot write: .*taken") as caught:
        convert(alone, FAST, tmp_path / "taken")
    assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == ["taken"]


def test_a_killed_child_leaves_no_temporary_files(alone, tmp_path, monkeypatch, child_runs):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    child_runs(
        "import os, tempfile, export.formats\n"
        "export.formats.get = lambda name: (tempfile.mkdtemp(), os.abort())"
    )
    (failed,) = convert(alone, ["onnx"], tmp_path / "out")
    assert "SIGABRT" in failed.error
    assert list(temporary.iterdir()) == []


def test_an_interrupted_program_ends_at_once(tmp_path):
    """The clock of a conversion must not keep the program alive."""
    code = """
import os, signal, sys, threading
from pathlib import Path
from export.convert import convert
from tests.export import corners

# A shell that runs the tests in the background has them ignore Ctrl-C, which is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Impatient:
    def step(self, text):
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

convert(corners.without_data(), ["tflite"], Path(sys.argv[1]), reporter=Impatient())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr.endswith("KeyboardInterrupt\n")
    assert files_in(tmp_path) == []
