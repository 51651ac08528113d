"""A newcomer's first command, and every later verb on what it left."""

import base64
import csv
import importlib
import io
import json
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.cli import VERBS
from apps.commands.list import ACTIVATIONS
from apps.commands.list import PARTS
from apps.report import write_report
from cnnkit import files
from cnnkit import models
from cnnkit import registry
from cnnkit.training.keeper import COLUMNS
from cnnkit.training.recipe import PRESETS
from cnnkit.training.schedules import SCHEDULES
from cnnkit.training.trainer import AUGMENTED
from export import formats
from export import passes
from export.bundle import Bundle
from export.formats import mediapipe
from export.formats import micro
from export.formats import tflite
from export.subject import load_dataset
from export.subject import open_subject

README = Path(__file__).parents[2] / "saved_models" / "README.md"
FILES = {
    *(
        "manifest.json",
        "manifest.sha256",
        "report.html",
        "labels.txt",
        "config.toml",
        "data.manifest.json",
    ),
    *("golden.json", "keras/model.keras", "MODEL_CARD.md"),
    *(f"golden/{i:02}.png" for i in range(16)),
    *(f"tflite/digits_{kind}.tflite" for kind in ("float32", "float16", "dynamic", "int8")),
    "tflite/digits_mediapipe.tflite",
    *(f"onnx/digits_{kind}.onnx" for kind in ("float32", "int8")),
    *(f"micro/digits{end}" for end in (".tflite", ".h", "_ops.h")),
    *(f"serving/{name}.config" for name in ("models", "batching", "monitoring")),
    *(f"serving/request_{name}.json" for name in ("example", "bytes", "classify")),
    *(f"serving/{name}" for name in ("README.md", "compose.yaml", "grpc_example.py")),
}
SAVED_MODEL = "serving/digits/1"
HELD_OUT = 360
NAMES = {"keras": "", **{name: formats.get(name).path("digits") for name in formats.DEFAULT}}


@pytest.fixture(scope="module")
def manifest(digits):
    return json.loads((digits.bundle / "manifest.json").read_text())


def rows_of(text, title=""):
    """Returns the cells of the table under `title`."""
    rows = []
    for line in text[text.index(title) :].splitlines():
        if line.startswith("│"):
            rows.append([cell.strip() for cell in line.strip("│").split("│")])
        elif rows:
            break
    return rows


def test_the_bundle_is_as_documented(digits):
    found = {p.relative_to(digits.bundle).as_posix() for p in digits.bundle.rglob("*.*")}
    found = {name for name in found if not name.startswith(SAVED_MODEL)}
    assert found == FILES
    assert (digits.bundle / SAVED_MODEL / "saved_model.pb").is_file()
    text = README.read_text()
    for name in FILES:
        parts = name.replace("digits", "NAME").split("/")
        known = (parts[-1], parts[-1].removeprefix("NAME").split(".")[0], f"{parts[0]}/ ")
        assert any(part in text for part in known), name


def test_the_run_folder(digits):
    names = {path.relative_to(digits.run).as_posix() for path in digits.run.rglob("*.*")}
    assert {name for name in names if not name.startswith("tensorboard/")} == {
        *("model.keras", "checkpoints/best.keras", "config.toml", "config.resolved.json"),
        *("environment.json", "data.manifest.json", "classes.json", "metrics.csv"),
        *("events.jsonl", "health.json", "checkpoints/last.keras"),
        *("checkpoints/state.json", "checkpoints/state-00012.npz"),
    }
    assert json.loads((digits.run / "classes.json").read_text()) == [str(n) for n in range(10)]
    origins = json.loads((digits.run / "config.resolved.json").read_text())
    assert origins["train.epochs"] == {"value": 12, "from": "--set"}
    assert origins["model.name"] == {"value": "resnet8", "from": "chosen from the data"}


def test_the_steps_and_the_table(digits):
    out = digits.done.out
    places = [out.index(f"[{n}/4] ") for n in range(1, 5)]
    assert places == sorted(places)
    rows = rows_of(out, "saved_models/digits, verified on")
    assert [row[0] for row in rows] == list(NAMES)
    assert [row[-1] for row in rows] == ["the reference", *["ok"] * len(formats.DEFAULT)]
    for row in rows[1:]:
        assert row[2].endswith("kB")
        assert row[3].endswith("kB")
        assert int(row[4]) > 0
        assert row[5].endswith("ms") or row[0] in ("micro", "savedmodel")
        assert row[6].endswith("%")
    assert "report: saved_models/digits/report.html" in out
    assert "card: saved_models/digits/MODEL_CARD.md" in out
    opinions = rows_of(out, "Second opinions")
    assert "TFLite Micro: " in next(row[1] for row in opinions if row[0] == "micro")
    assert digits.done.err == ""


def test_int8_is_as_good_as_float(manifest):
    accuracy = {row["format"]: row["accuracy"] for row in manifest["verdicts"]}
    keras_accuracy = manifest["ledger"][-1]["accuracy"]
    assert accuracy["tflite-int8"] >= 0.97
    assert accuracy["tflite-int8"] >= max(accuracy["tflite"], keras_accuracy) - 0.005
    assert accuracy["tflite"] == accuracy["onnx"] == accuracy["savedmodel"] == keras_accuracy


def test_one_file_gives_the_same_names_in_three_runtimes(digits, mediapipe_python):
    """LiteRT, MediaPipe and TFLite Micro, on digits that no weight was fitted to.

    Scores are multiples of 1/256, and exact in float32. Where two classes share the highest one,
    either may come first; then the runtimes must have one of these in common.
    """
    bundle, file = Bundle.open(digits.bundle), digits.bundle / NAMES["tflite-mediapipe"]
    dataset = load_dataset("digits", (8, 8, 1), bundle.resize, bundle.data_manifest())
    parts = [dataset.arrays(split) for split in ("test", "val")]
    x, y = (np.concatenate(arrays)[:HELD_OUT] for arrays in zip(*parts, strict=True))
    x = np.repeat(x, 3, -1)
    assert (x.shape, x.dtype) == ((HELD_OUT, 8, 8, 3), np.uint8)
    phone = mediapipe.classify(file, x, mediapipe_python)
    assert phone.labels == list(bundle.labels) == list(tflite.metadata(file).labels)
    scores = tflite.run(file, x), phone.scores, micro.interpret(file, x)[0]
    best = [given == given.max(1, keepdims=True) for given in scores]
    assert best[1][np.arange(HELD_OUT), phone.first].all()
    assert np.logical_and.reduce(best).any(1).sum() == HELD_OUT
    assert (phone.first == y).mean() > 0.95


def test_compression_made_it_smaller(manifest):
    before, after = manifest["ledger"]
    assert after["params"] < 0.7 * before["params"]
    assert after["macs"] < 0.7 * before["macs"]
    assert after["accuracy"] >= before["accuracy"] - 0.02


def test_the_report_has_curves_table_matrix_and_mistakes(digits):
    page = (digits.bundle / "report.html").read_text()
    for heading in ("Files", "Training", "Calibration", "Confusion matrix", "Worst mistakes"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<svg") == 4
    assert '<figure><img src="data:image/png;base64,' in page
    assert "cnnkit run digits --set train.epochs=12" in page
    assert "<p>the loss falls fast, then levels off (" in page
    assert "<li>training: " not in page


def test_the_report_tells_what_was_wrong_in_training(digits, own_bundle, manifest, tmp_path):
    """10.5, 11.2, 8.3"""
    run = Path(shutil.copytree(digits.run, tmp_path / "digits"))
    losses = (1.2, 0.9, 1.0, 1.1, 0.9, 1.0, 0.9, 1.1)
    rows = [f"{k},{loss},0.7,{loss},0.5,0.1,1.0" for k, loss in enumerate(losses, 1)]
    (run / "metrics.csv").write_text("\n".join([",".join(COLUMNS), *rows]))
    dead = "relu1: 12 of 16 units are dead"
    (run / "health.json").write_text(json.dumps([{"epoch": 8, "said": [dead]}]))
    page = write_report(own_bundle, manifest, open_subject(run)).read_text()
    found = re.findall(r"<li>training: (.*)</li>", page)
    assert [text.split(" (")[0] for text in found] == [
        "the loss falls at first, and then no more",
        "over-fitting: 70.0% of the training pictures are right, but 50.0% of the validation "
        "pictures: more regularization",
        dead,
    ]
    assert f"<p>{found[0]}.</p>" in page


def test_the_report_has_macro_f1_with_an_interval(digits, manifest):
    scores = manifest["scores"]
    low, high = scores["macro_f1_interval"]
    assert 0.9 < low <= scores["macro_f1"] <= high
    told = f"is {scores['macro_f1']:.1%} ({low:.1%} to {high:.1%})"
    assert told in (digits.bundle / "report.html").read_text()


def test_the_report_shows_augmented_pictures(digits, own_bundle, manifest, tmp_path):
    assert "<h2>Augmentation</h2>" not in (digits.bundle / "report.html").read_text()
    run = Path(shutil.copytree(digits.run, tmp_path / "digits"))
    (run / AUGMENTED).parent.mkdir()
    Image.new("RGB", (4, 2), "red").save(run / AUGMENTED)
    page = write_report(own_bundle, manifest, open_subject(run)).read_text()
    [shown] = re.findall(r'<p><img src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(shown) == (run / AUGMENTED).read_bytes()


@pytest.mark.parametrize("data", [(), ("--data", "digits")], ids=["golden", "data"])
def test_verify(cnnkit, digits, manifest, data):
    done = cnnkit("verify", digits.bundle, *data)
    assert (done.code, done.err) == (0, "")
    rows = rows_of(done.out)
    assert [row[0] for row in rows] == list(formats.DEFAULT)
    assert {row[-1] for row in rows} == {"ok"}
    if data:
        accuracy = [f"{row['accuracy']:.4g}" for row in manifest["verdicts"]]
        assert [row[1] for row in rows] == accuracy


@pytest.mark.parametrize("name", NAMES)
def test_eval_gives_the_accuracy_of_the_manifest(cnnkit, digits, manifest, name):
    wanted = {row["format"]: row["accuracy"] for row in manifest["verdicts"]}
    wanted["keras"] = manifest["ledger"][-1]["accuracy"]
    done = cnnkit("eval", digits.bundle / NAMES[name], "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["accuracy"] == pytest.approx(wanted[name], abs=1e-9)


def test_eval_of_the_run(cnnkit, digits, manifest):
    done = cnnkit("eval", digits.run, "digits", "--json")
    scores = json.loads(done.out)
    assert scores["accuracy"] == pytest.approx(manifest["ledger"][0]["accuracy"], abs=1e-9)
    assert scores["pictures"] == 268
    text = cnnkit("eval", digits.run)
    assert text.code == 0
    [row] = rows_of(text.out)
    assert row[3] == "{:.4f}-{:.4f}".format(*scores["macro_f1_interval"])
    assert [row[0] for row in rows_of(text.out, "Classes")] == [str(n) for n in range(10)]


@pytest.mark.parametrize("name", NAMES)
def test_predict_gives_the_same_class_by_every_file(cnnkit, digits, name):
    golden = json.loads((digits.bundle / "golden.json").read_text())
    picture = golden["pictures"][3]
    expected = picture["expected"]["keras"]
    winner = golden["labels"][expected.index(max(expected))]
    picture = digits.bundle / picture["file"]
    done = cnnkit("predict", digits.bundle / NAMES[name], picture, "--format", "json")
    assert (done.code, done.err) == (0, "")
    [row] = json.loads(done.out)
    assert row["picture"] == str(picture)
    assert len(row["classes"]) == 5
    assert row["classes"][0] == [winner, pytest.approx(max(expected), abs=0.05)]


def test_predict_a_large_colour_photograph_as_csv_and_as_table(cnnkit, digits, tmp_path):
    three = Image.open(digits.bundle / "golden" / "03.png").resize((80, 80)).convert("RGB")
    three.save(tmp_path / "a, b.jpg", quality=95)
    path = digits.bundle / NAMES["tflite-int8"]
    done = cnnkit("predict", path, "a, b.jpg", "--topk", "3", "--format", "csv")
    header, *rows = csv.reader(io.StringIO(done.out))
    assert header == ["picture", "rank", "class", "probability"]
    assert [row[:2] for row in rows] == [["a, b.jpg", "1"], ["a, b.jpg", "2"], ["a, b.jpg", "3"]]
    assert float(rows[0][3]) >= float(rows[1][3]) >= float(rows[2][3]) >= 0
    [row] = rows_of(cnnkit("predict", path, "*.jpg", "--topk", "1").out)
    assert row[0] == "a, b.jpg"
    assert row[1].startswith(f"{rows[0][2]} ")


def test_predict_goes_on_after_what_is_no_picture(cnnkit, digits, tmp_path):
    (tmp_path / "letter.txt").write_text("dear all")
    golden = digits.bundle / "golden"
    done = cnnkit("predict", digits.bundle, golden, tmp_path / "letter.txt", "--format", "json")
    assert done.code == 4
    assert len(json.loads(done.out)) == 16
    assert len(done.errors) == 1
    assert "1 of 17 pictures cannot be read" in done.errors[0]
    assert "letter.txt" in done.errors[0]


def test_the_recipe_of_the_bundle_trains_again(cnnkit, digits, tmp_path):
    config = digits.bundle / "config.toml"
    assert tomllib.loads(config.read_text())["data"]["path"] == "digits"
    few = ("--set", "train.epochs=1", "--set", "model.width=0.25")
    done = cnnkit("-q", "train", "-c", config, *few, "--out", "again", "--seed", "3")
    assert (done.code, done.err) == (0, "")
    origins = json.loads((tmp_path / "again" / "config.resolved.json").read_text())
    assert origins["train.seed"] == {"value": 3, "from": "--set"}
    assert origins["model.name"] == {"value": "resnet8", "from": "file"}
    assert len((tmp_path / "again" / "metrics.csv").read_text().splitlines()) == 2
    # A second time only when asked for.
    assert cnnkit("train", "-c", config, *few, "--out", "again").code == 2
    assert cnnkit("train", "-c", config, *few, "--out", "again", "--overwrite").code == 0


def test_export_again_with_a_gate_that_one_format_misses(cnnkit, digits, manifest, tmp_path):
    sizes = {row["format"]: row["size_bytes"] for row in manifest["verdicts"]}
    limit = (sizes["tflite-int8"] + sizes["tflite"]) // 2
    two = ("--format", "tflite", "--format", "tflite-int8")
    gate = ("--set", f"export.max_size={limit}")
    (tmp_path / "key").write_bytes(b"k" * 32)
    (tmp_path / "other").write_bytes(b"o" * 32)
    more = ("--calib", "50", "--out", "gated", "--sign", "key")
    done = cnnkit("export", digits.bundle, *two, *gate, *more)
    assert done.code == 3
    assert done.errors == [
        "error: 1 of 2 formats are refused and not in the bundle; the first is: tflite. Received "
        f"has {sizes['tflite']} bytes, export.max_size is {limit}. What passed is in gated."
    ]
    assert [row[-1][:7] for row in rows_of(done.out, "gated")] == ["the ref", "REFUSED", "ok"]
    gated = tmp_path / "gated"
    assert [path.name for path in (gated / "tflite").iterdir()] == ["digits_int8.tflite"]
    assert f"refused: has {sizes['tflite']} bytes" in (gated / "report.html").read_text()
    assert tomllib.loads((gated / "config.toml").read_text())["export"]["calibration"] == 50
    assert cnnkit("verify", gated, "--key", "key").code == 0
    forged = cnnkit("verify", gated, "--key", "other")
    assert forged.code == 3
    assert "manifest.hmac: not of this key" in forged.errors[0]
    (gated / "onnx").mkdir()
    (gated / "onnx" / "digits_float32.onnx").write_bytes(b"hostile")
    added = cnnkit("verify", gated, "--key", "key")
    assert added.code == 3
    assert "onnx/digits_float32.onnx: added after the export" in added.errors[0]


SPOILED = ("tflite/digits_int8.tflite", f"{SAVED_MODEL}/saved_model.pb", "keras/model.keras")


@pytest.mark.parametrize("name", SPOILED)
def test_verify_names_a_file_that_changed(cnnkit, own_bundle, name):
    path = own_bundle / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = cnnkit("verify", own_bundle)
    assert done.code == 3
    assert len(done.errors) == 1
    assert f"{name}: changed after the export" in done.errors[0]
    assert [name, "changed after the export (its sha256 differs from manifest.json)"] in rows_of(
        done.out, "Not as exported"
    )


def test_verify_names_every_file_that_is_gone(cnnkit, own_bundle):
    files.remove(own_bundle / "onnx")
    done = cnnkit("verify", own_bundle, "--data", "digits")
    assert done.code == 3
    assert len(done.errors) == 1
    gone = ["onnx/digits_float32.onnx", "onnx/digits_int8.onnx"]
    assert [row[0] for row in rows_of(done.out, "Not as exported")] == gone


LISTS = {
    "activations": ACTIVATIONS,
    "models": models.NAMES,
    "schedules": SCHEDULES,
    "formats": formats.FORMATS,
    "passes": passes.PASSES,
}


@pytest.mark.parametrize("kind", [*LISTS, *PARTS, "presets"])
def test_list(cnnkit, kind):
    names = list(LISTS.get(kind, PRESETS))
    if kind in PARTS:
        package, part = PARTS[kind]
        importlib.import_module(package)
        names = registry.names(part)
    done = cnnkit("list", kind, "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert list(found) == names
    assert all(found.values())
    assert [row[0] for row in rows_of(cnnkit("list", kind).out) if row[0]] == names


def test_show(cnnkit):
    done = cnnkit("show", "model", "lenet5_caffe")
    assert (done.code, done.err) == (0, "")
    assert rows_of(done.out, "Total")[0][0] == "431080"
    other = cnnkit("show", "model", "lenet300", "--input", "4x2x3", "--classes", "5")
    assert rows_of(other.out, "Total")[0][0] == str(25 * 300 + 301 * 100 + 101 * 5)


def test_show_receptive_fields_and_rules(cnnkit):
    done = cnnkit("show", "model", "lenet5_caffe", "--lint")
    fields = {row[0]: row[3] for row in rows_of(done.out, "lenet5_caffe on 28x28x1")}
    assert (fields["conv1"], fields["conv2"], fields["fc1"]) == ("5x5", "14x14", "whole")
    rules = {row[0] for row in rows_of(done.out, "lenet5_caffe against the rules of design")}
    assert {"input size", "padding", "channels"} <= rules


def test_show_side_by_side(cnnkit):
    done = cnnkit("show", "model", "plain20", "resnet20", "lenet300")
    assert (done.code, done.err) == (0, "")
    rows = rows_of(done.out, "Side by side")
    assert [row[:3] for row in rows] == [
        ["plain20", "32x32x3", "20"],
        ["resnet20", "32x32x3", "20"],
        ["lenet300", "28x28x1", "3"],
    ]
    assert rows[0][6] == rows[1][6]


def test_doctor(cnnkit):
    done = cnnkit("doctor")
    assert (done.code, done.err) == (0, "")
    assert "FAILED" not in done.out
    tried = rows_of(done.out, "Tried")
    assert [row[0] for row in tried] == ["GPU", *formats.FORMATS]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(cnnkit, verb):
    done = cnnkit(verb, "--help")
    assert (done.code, done.err) == (0, "")
    assert "Usage" in done.out
