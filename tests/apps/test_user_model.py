"""Somebody's own `.keras` file: ends in logits, takes pixels 0-1, has no cnnkit in it."""

import json
import re

import keras
import numpy as np
import pytest

from cnnkit import files

PASS = ("--pass", "prune-filters:ratio=0.5")


def sizes(run):
    before, after = json.loads((run / "ledger.json").read_text())
    return before, after


def test_with_data(cnnkit, here):
    before = files.sha256(here / "user.keras")
    tune = ("--set", "compress.finetune_epochs=2")
    done = cnnkit("compress", "user.keras", *PASS, "--data", "digits", *tune)
    assert (done.code, done.err) == (0, "")
    assert re.search("pixel range 0-1 measured: accuracy 0.9", done.out)
    assert "a softmax is added" in done.out
    assert files.sha256(here / "user.keras") == before
    run = here / "runs" / "user-small"
    first, second = sizes(run)
    assert second["params"] < 0.6 * first["params"]
    assert first["accuracy"] > 0.93
    assert second["accuracy"] > 0.85

    model = keras.models.load_model(run / "model.keras")
    assert model.input_shape == (None, 8, 8, 1)
    probabilities = np.asarray(model(np.full((1, 8, 8, 1), 128.0, np.float32)))
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)

    formats = ("--format", "tflite-int8", "--format", "onnx")
    done = cnnkit("export", run, *formats)
    assert (done.code, done.err) == (0, "")
    bundle = here / "saved_models" / "user-small"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [row["ok"] for row in manifest["verdicts"]] == [True, True]
    assert manifest["labels"] == [str(n) for n in range(10)]
    assert manifest["ledger"] == [first, second]
    scores = cnnkit("eval", bundle / "onnx" / "user-small_float32.onnx", "--json")
    assert json.loads(scores.out)["accuracy"] == pytest.approx(second["accuracy"], abs=1e-6)


def test_without_data(cnnkit, here):
    before = files.sha256(here / "user.keras")
    done = cnnkit("compress", "user.keras", *PASS, "--out", "small")
    assert done.code == 0
    assert done.err.startswith("warning: no data: nothing is fine-tuned")
    assert "pixel range 0-255 assumed" in done.out
    assert files.sha256(here / "user.keras") == before
    first, second = sizes(here / "small")
    assert second["params"] < 0.6 * first["params"]
    assert first["accuracy"] is None

    done = cnnkit("export", "small", "--out", "bundle", "--set", "export.formats=['onnx-int8']")
    assert done.code == 0
    assert "no data to calibrate with: no onnx-int8" in done.err
    done = cnnkit("export", "small", "--out", "bundle", "--format", "onnx", "--overwrite")
    assert (done.code, done.err) == (0, "")
    assert "synthetic pictures, for want of data" in done.out
    page = (here / "bundle" / "report.html").read_text()
    assert "nobody knows how good this model is" in page
    assert not (here / "bundle" / "labels.txt").exists()


def test_the_pixel_range_can_be_said(cnnkit, here):
    done = cnnkit(
        "compress", "user.keras", *PASS, "--set", "data.pixel_range=0-1", "--out", "small"
    )
    assert done.code == 0
    assert "a softmax is added" in done.out
    assert "pixel range" not in done.out
    picture = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 1)).astype(np.float32)
    model = keras.models.load_model(here / "small" / "model.keras")
    [pixels] = [layer for layer in model.layers if isinstance(layer, keras.layers.Rescaling)]
    np.testing.assert_allclose(pixels(picture), picture / 255, rtol=1e-5)
    done = cnnkit("export", "small", "--out", "bundle", "--format", "onnx")
    assert (done.code, done.err) == (0, "")


def test_quiet_prints_results_only(cnnkit, here):
    done = cnnkit("-q", "compress", "user.keras", *PASS, "--out", "small")
    assert (done.code, done.err) == (0, "")
    first, *_, last = done.out.splitlines()
    assert (first, last) == ("Ledger", "run folder: small")


def test_eval_and_predict(cnnkit, here):
    scores = json.loads(cnnkit("eval", "user.keras", "digits", "--json").out)
    assert scores["accuracy"] > 0.93
    done = cnnkit("predict", "user.keras", "picture.png", "--format", "json")
    assert done.code == 0
    assert "pixel range 0-255 assumed" in done.err
    [row] = json.loads(done.out)
    assert {name for name, _ in row["classes"]} <= {f"class {n}" for n in range(10)}
    quiet = cnnkit("-q", "predict", "user.keras", "picture.png", "--format", "json")
    assert (quiet.out, quiet.err) == (done.out, "")


def test_what_is_odd_in_the_int8_file_is_in_the_report(cnnkit, here):
    """A layer that is zero on every picture, and an op that has no int8 kernel."""
    layers = keras.layers
    x = image = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 255, name="pixels")(x)
    dead = layers.Conv2D(
        4, 3, activation="relu", bias_initializer=keras.initializers.Constant(-50), name="dead"
    )
    x = layers.Concatenate(name="both")([dead(x), layers.Conv2D(4, 3, name="live")(x)])
    x = layers.GlobalAveragePooling2D(name="mean")(layers.ELU(name="elu")(x))
    x = layers.Dense(10, activation="softmax", name="probabilities")(x)
    keras.Model(image, x).save(here / "odd.keras")
    untrained = ("--set", "guard.dry_run=true", "--set", "export.max_drop=1")
    done = cnnkit("export", "odd.keras", "--data", "digits", "--format", "tflite-int8", *untrained)
    assert done.code == 0, done.err
    page = (here / "saved_models" / "odd" / "report.html").read_text()
    assert "tflite-int8: zero on every calibration picture: dead (range taken" in page
    assert "tflite-int8: computed in float32, for want of an int8 kernel: 1 ELU" in page
    done = cnnkit("verify", here / "saved_models" / "odd")
    assert "tflite-int8: zero on every calibration picture: dead" in done.out


def test_auto_keeps_the_fastest(cnnkit, here):
    asked = ("--format", "auto", "--target", "ort-cpu", "--data", "digits", "--out", "fast")
    done = cnnkit("export", "user.keras", *asked)
    assert (done.code, done.err) == (0, "")
    (chosen,) = re.findall(r"auto chose (onnx(?:-int8)?) on this machine", done.out)
    bundle = here / "fast"
    (file,) = (bundle / "onnx").iterdir()
    assert ("int8" in file.name) == (chosen == "onnx-int8")
    assert not (bundle / "tflite").exists()
    done = cnnkit("export", "user.keras", "--format", "auto", "--target", "toaster")
    assert done.code == 2
    assert "Unknown target" in done.err
