import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from cnnkit import files
from cnnkit.errors import CnnkitError
from cnnkit.errors import UsageError
from cnnkit.training.recipe import resolve
from cnnkit.training.reporter import Reporter
from export import bundle as bundles
from export import formats
from export import seal
from export.ledger import Row
from export.verification import verify
from tests.export import corners

pytestmark = pytest.mark.export
README = Path(__file__).parents[2] / "saved_models" / "README.md"


def inside(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def promised(name):
    """Returns what saved_models/README.md says is in a bundle: files, and folders with a /."""
    text = README.read_text("utf-8")
    (layout,) = re.findall(r"```\nsaved_models/NAME/\n(.*?)```", text, re.DOTALL)
    found = set()
    for line in layout.replace("NAME", name).splitlines():
        first, *columns = re.split(r"\s{2,}", line.strip())
        found.add(first)
        for column in columns:
            if column.startswith("…"):  # `a_float32.tflite  …_int8`: the same with another end
                found.add(first.replace("_float32", column[1:]))
            elif column.endswith("/"):
                found.add(column)
            elif first.startswith("serving/"):
                found |= {
                    f"serving/{file}" for file in re.findall(r"\w+\.(?:config|json|yaml)", column)
                }
    return found


def test_the_layout_is_the_one_that_the_readme_promises(bundle):
    want = promised("corners")
    there = inside(bundle.folder)
    assert want >= {"manifest.json", "golden/", "serving/corners/1/", "onnx/corners_int8.onnx"}
    folders = tuple(place for place in want if place.endswith("/"))
    for place in want:
        assert any(f == place or (place in folders and f.startswith(place)) for f in there), place
    assert {f for f in there if f not in want and not f.startswith(folders)} == set()
    assert bundle.folder.joinpath("serving/corners/1/saved_model.pb").is_file()


def test_the_manifest_has_the_keys_that_the_readme_explains(bundle):
    section = README.read_text("utf-8").split("## manifest.json")[1].split("## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    explained = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    # The test's report adds `command`, as the one of the program does.
    assert set(bundle.manifest) - {"schema", "command"} == explained


def test_the_manifest_says_what_was_made_and_how(bundle, subject):
    manifest = bundle.manifest
    assert (bundle.name, bundle.labels, bundle.resize) == (
        "corners",
        corners.LABELS,
        "letterbox",
    )
    assert manifest["input"] == {"name": "image", "shape": [8, 8, 1]}
    assert manifest["output"] == {"name": "probabilities", "classes": 3}
    assert manifest["versions"].keys() == {"python", *bundles.PACKAGES}
    assert "not installed" not in manifest["versions"].values()
    assert manifest["verified_on"] == "21 pictures"
    assert manifest["command"] == "a test"
    (row,) = manifest["ledger"]
    assert (row["name"], row["params"]) == ("model", subject.model.count_params())
    assert row["accuracy"] == manifest["verdicts"][0]["model_accuracy"]
    assert bundle.artifacts == list(formats.FORMATS)
    assert bundle.recipe() == subject.recipe
    assert bundle.data_manifest() == subject.dataset.manifest


def test_every_file_has_its_hash(bundle):
    assert set(bundle.manifest["files"]) == inside(bundle.folder) - {seal.MANIFEST, seal.DIGEST}
    assert all(
        files.sha256(bundle.folder / name) == digest
        for name, digest in bundle.manifest["files"].items()
    )
    assert bundle.broken_files() == {}


def test_no_empty_folders(bundle):
    folders = [path for path in bundle.folder.rglob("*") if path.is_dir()]
    assert all(any(folder.iterdir()) for folder in folders)


def test_the_keras_file_opens_without_cnnkit(bundle):
    code = """
import sys
sys.modules["cnnkit"] = sys.modules["export"] = None
import keras, numpy
model = keras.models.load_model(sys.argv[1])
print(model.inputs[0].name, model.compiled, model(numpy.zeros((1, 8, 8, 1))).shape)
"""
    command = [sys.executable, "-c", code, str(bundle.folder / "keras/model.keras")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "image False (1, 3)\n"


def test_golden_pictures_give_their_outputs_with_every_file(bundle):
    """As the developer of an app does it, with nothing but the folder."""
    golden = json.loads((bundle.folder / "golden.json").read_text("utf-8"))
    assert golden["labels"] == list(corners.LABELS)
    assert golden["resize"] == "letterbox"
    assert golden["input"]["shape"] == [8, 8, 1]
    assert "letterbox" not in golden["resize_rule"]  # a sentence, not the name again
    rows = golden["pictures"]
    assert len(rows) == 16
    assert {row["label"] for row in rows} == set(corners.LABELS)
    assert all(row["label"] == golden["labels"][row["label_index"]] for row in rows)
    x = np.stack([np.asarray(Image.open(bundle.folder / row["file"])) for row in rows])[..., None]
    assert x.dtype == np.uint8
    for name in formats.FORMATS:
        row = formats.get(name)
        got = row.load().run(bundle.folder / row.path("corners"), x)
        want = [picture["expected"][name] for picture in rows]
        np.testing.assert_allclose(got, want, atol=0.02 if row.needs_calibration else 1e-3)
    keras_model = keras.models.load_model(bundle.folder / "keras/model.keras")
    want = [picture["expected"]["keras"] for picture in rows]
    np.testing.assert_allclose(keras_model(x.astype("float32")), want, atol=1e-5)
    assert len({picture["from"] for picture in rows}) == 16


def test_the_request_example_is_the_first_golden_picture(bundle):
    request = json.loads((bundle.folder / "serving/request_example.json").read_text("utf-8"))
    first = np.asarray(Image.open(bundle.folder / "golden/00.png"))
    np.testing.assert_array_equal(np.array(request["instances"])[0, ..., 0], first)


def test_labels_are_one_line_each_whatever_they_are(subject, bundle, tmp_path):
    text = (bundle.folder / "labels.txt").read_text("utf-8")
    assert text.split("\n") == [*corners.LABELS, ""]
    # A model of a user may bring any names: \x85 and   end lines too.
    odd = ("two\nlines", "more\x85of\u2028it", "\r\n")
    done = bundles.write(replace(subject, labels=odd, dataset=None), ["onnx"], out=tmp_path / "odd")
    lines = (tmp_path / "odd/labels.txt").read_text("utf-8").splitlines()
    assert lines == ["two lines", "more of it", " "]
    assert done.labels == odd
    assert formats.module("onnx").metadata(tmp_path / "odd/onnx/corners_float32.onnx").labels == odd


def test_calibration_pictures_are_checked_where_they_are_needed(npz, tmp_path):
    class Listener(Reporter):
        def __init__(self):
            self.warned = []

        def warn(self, text):
            self.warned.append(text)

    subject = corners.subject(npz, recipe=resolve(sets=["export.calibration=2"]).recipe)
    listener = Listener()
    done = bundles.write(subject, ["tflite-int8"], out=tmp_path / "int8", reporter=listener)
    few, missing = listener.warned[:2]
    assert few == "int8: 2 calibration pictures are few: ranges depend on chance below 100"
    assert missing.startswith("int8: 1 of 3 classes have no calibration picture: ")
    assert done.manifest["notes"] == listener.warned[:2]
    listener.warned.clear()
    done = bundles.write(subject, ["tflite"], out=tmp_path / "float", reporter=listener)
    assert (listener.warned, done.manifest["notes"]) == ([], [])


def test_a_model_without_data_is_verified_on_synthetic_pictures(tmp_path):
    theirs = tmp_path / "theirs.keras"
    corners.network(end="logits").save(theirs)
    done = bundles.write(theirs, ["tflite", "onnx"], out=tmp_path / "out")
    assert done.artifacts == ["tflite", "onnx"]
    assert done.labels is None
    assert done.manifest["verified_on"] == "64 synthetic pictures, for want of data"
    assert "the model ends in logits: a softmax is added" in done.manifest["notes"]
    there = inside(done.folder)
    assert {"labels.txt", "data.manifest.json"}.isdisjoint(there)
    golden = json.loads((done.folder / "golden.json").read_text("utf-8"))
    assert {row["label"] for row in golden["pictures"]} == {None}
    pictures = done.golden_pictures()
    assert pictures.y is None
    assert len({picture.tobytes() for picture in pictures.x}) == 16
    assert verify(done).ok
    with pytest.raises(UsageError, match="without calibration pictures: tflite-int8"):
        bundles.write(theirs, ["tflite-int8"], out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_refused_format_is_not_in_the_bundle(subject, tmp_path):
    size = 5000  # the float16 file is smaller, the float32 file and the SavedModel are larger
    recipe = resolve(export={"max_size": size}).recipe
    jobs = ["savedmodel", "tflite", "tflite-fp16"]
    done = bundles.write(replace(subject, recipe=recipe), jobs, out=tmp_path / "out")
    assert done.artifacts == ["tflite-fp16"]
    assert done.refused.keys() == {"savedmodel", "tflite"}
    assert all(f"export.max_size is {size}" in reason for reason in done.refused.values())
    there = inside(done.folder)
    assert not any(f.startswith("serving") for f in there)
    assert not (done.folder / "serving").exists()
    assert [f for f in there if f.startswith("tflite")] == ["tflite/corners_float16.tflite"]
    golden = json.loads((done.folder / "golden.json").read_text("utf-8"))
    assert golden["pictures"][0]["expected"].keys() == {"keras", "tflite-fp16"}
    verdict = verify(done)
    assert verdict.ok
    assert [row.format for row in verdict.rows] == ["tflite-fp16"]


def test_a_format_whose_conversion_fails_is_told_and_leaves_nothing(tmp_path):
    net = corners.network(end="logits")
    odd = keras.ops.erfinv(keras.ops.tanh(net.output))
    done = bundles.write(keras.Model(net.input, odd, name="odd"), ["onnx"], out=tmp_path / "out")
    assert done.artifacts == []
    assert "Erfinv" in done.refused["onnx"]
    assert not (done.folder / "onnx").exists()
    verdict = verify(done)
    assert not verdict.ok


def test_wrong_arguments_are_refused_before_the_work(tmp_path):
    with pytest.raises(UsageError, match="Unknown format 'tflte'"):
        bundles.write(tmp_path / "missing.keras", ["tflte"], out=tmp_path / "out")
    for name in ("file", "folder"):
        precious = tmp_path / name / "thesis.txt" if name == "folder" else tmp_path / name
        files.write_text(precious, "years of work")
        with pytest.raises(UsageError, match="There is something already"):
            bundles.write(tmp_path / "missing.keras", ["tflite"], out=tmp_path / name)
        assert precious.read_text() == "years of work"


def program(body):
    return f"""
import os, resource, signal, sys
from pathlib import Path
from cnnkit.errors import CnnkitError
from cnnkit.training.reporter import Reporter
from export import bundle
from tests.export import corners

subject, out = corners.without_data(), Path(sys.argv[1])
{body}
"""


def start(body, out):
    command = [sys.executable, "-c", program(body), str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def old(bundle, tmp_path):
    """A bundle that stands where a new one is to go."""
    return Path(shutil.copytree(bundle.folder, tmp_path / "models" / "corners"))


@pytest.mark.parametrize("step", ["exporting", "verifying"])
def test_a_kill_leaves_the_old_bundle_as_it_was(old, step):
    before = seal.hashes(old)
    done = start(
        f"""
class Killer(Reporter):
    def step(self, text):
        if text.startswith({step!r}):
            os.kill(os.getpid(), signal.SIGKILL)

bundle.write(subject, ["onnx"], out=out, reporter=Killer())
""",
        old,
    )
    assert done.returncode == -signal.SIGKILL
    assert seal.hashes(old) == before
    assert [p for p in old.parent.iterdir() if not p.name.startswith(".")] == [old]


def test_a_full_disk_leaves_the_old_bundle_as_it_was(old):
    before = seal.hashes(old)
    done = start(
        """
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    bundle.write(subject, ["onnx"], out=out)
except CnnkitError as error:
    print(error)
""",
        old,
    )
    assert done.stdout.startswith("Cannot write: ")
    assert done.stdout.count("\n") == 1
    assert "what stood there is untouched" in done.stdout
    assert "partial" not in done.stdout  # a folder that is gone
    assert seal.hashes(old) == before
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnx", r"Cannot write: .*onnx. Received File too large"),
        ("savedmodel", "The disk is full, or the file too large for it. Free some space"),
    ],
)
def test_a_disk_that_is_full_for_the_converter(tmp_path, child_runs, name, message):
    """Python writes the one, TensorFlow's own code the other."""
    child_runs("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))")
    with pytest.raises(CnnkitError, match=message) as told:
        bundles.write(corners.without_data(), [name], out=tmp_path / "models" / "m")
    assert "\n" not in str(told.value)
    assert list((tmp_path / "models").iterdir()) == []


def test_an_error_in_the_report_leaves_nothing(tmp_path):
    def fail(folder, manifest):
        raise KeyError("a bug in the report")

    with pytest.raises(KeyError):
        bundles.write(corners.without_data(), [], out=tmp_path / "m", extra=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_new_bundle_replaces_an_old_one(old):
    done = bundles.write(corners.without_data(), [], out=old)
    assert done.artifacts == []
    assert inside(old) == {
        "manifest.json",
        "manifest.sha256",
        "config.toml",
        "golden.json",
        "keras/model.keras",
        *(f"golden/{i:02d}.png" for i in range(16)),
    }


def test_compression_rows_are_kept(subject, tmp_path, run):
    rows = [Row("original", params=9), Row("1 prune-filters", params=5)]
    given = bundles.write(replace(subject, dataset=None), [], out=tmp_path / "a", rows=rows)
    assert [Row(**row) for row in given.manifest["ledger"]] == rows
    known = bundles.write(run, [], out=tmp_path / "b")
    assert [row["name"] for row in known.manifest["ledger"]] == ["original"]
