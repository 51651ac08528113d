import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from cnnkit import files
from cnnkit.errors import DataError
from cnnkit.errors import UsageError
from cnnkit.training.predict import predict_keras
from export import formats
from export import judging
from export import seal
from export.bundle import Bundle
from export.formats import tflite
from export.judging import Judged
from export.judging import Pictures
from export.judging import judge
from export.limits import LIMITS
from export.limits import Gates
from export.limits import Limit
from export.subject import require_classes
from export.verification import verify
from tests.export import corners

pytestmark = pytest.mark.export
README = Path(__file__).parents[2] / "saved_models" / "README.md"
FLOAT = "tflite/corners_float32.tflite"


@pytest.fixture
def whole(bundle, tmp_path):
    """A copy of the bundle that a test may change."""
    return Bundle.open(shutil.copytree(bundle.folder, tmp_path / "own"))


@pytest.fixture
def own(whole):
    """The same without the SavedModel, which takes seconds to run."""
    kept = [row for row in whole.manifest["verdicts"] if row["format"] != "savedmodel"]
    return change(whole, verdicts=kept)


def change(bundle, **entries):
    """Rewrites the manifest as somebody would who wants to hide what he changed."""
    manifest = bundle.manifest | entries
    manifest["files"] = {
        name: files.sha256(bundle.folder / name)
        for name in manifest["files"]
        if (bundle.folder / name).is_file()
    }
    files.write_json(bundle.folder / Bundle.MANIFEST, manifest)
    seal.close(bundle.folder)
    return Bundle.open(bundle.folder)


def reasons(verdict):
    return {row.format: row.reason for row in verdict.rows if not row.ok}


def test_the_limits_cover_exactly_the_formats():
    assert LIMITS.keys() == formats.FORMATS.keys()
    for limit in LIMITS.values():
        assert limit.reason
        assert str(limit)
        assert limit.layer_db > 0
        assert 0 <= limit.agreement < 1
        # A format without a bound on the difference must at least agree.
        assert (limit.max_abs or 1) > 0
        assert limit.max_abs is not None or limit.agreement >= 0.9


def test_a_bundle_that_nobody_touched_is_right(bundle, npz):
    golden, data = verify(bundle.folder), verify(bundle.folder, npz)
    for verdict in (golden, data):
        assert verdict.ok
        assert not verdict.broken
        assert [row.format for row in verdict.rows] == list(formats.FORMATS)
    assert golden.source == "the bundle's golden pictures"
    assert {row.pictures for row in golden.rows} == {16}
    # The same pictures as at the export: the test part, as the bundle's manifest remembers it.
    exported = {row["format"]: row for row in bundle.manifest["verdicts"]}
    for row in data.rows:
        assert row.pictures == 21
        assert row.accuracy == exported[row.format]["accuracy"]
        assert row.agreement == exported[row.format]["agreement"]
        assert row.max_abs == pytest.approx(exported[row.format]["max_abs"], abs=1e-6)
        assert row.drop == pytest.approx(row.model_accuracy - row.accuracy)
        assert (row.latency_ms is None) == (not formats.get(row.format).load().QUICK)
    assert verify(bundle).rows[0].to_dict()["format"] == "tflite"


def test_the_file_of_another_model_is_refused(own, tmp_path):
    other = corners.network(end="deployable")
    kernel, bias = other.get_layer("logits").get_weights()
    other.get_layer("logits").set_weights([kernel[:, ::-1], bias[::-1]])
    for name in ("tflite", "tflite-int8"):
        row = formats.get(name)
        x, _ = corners.pictures(32)
        row.load().write(
            other, own.folder / row.path("corners"), variant=row.variant, calibration=x
        )
    verdict = verify(change(own))
    assert not verdict.ok
    assert not verdict.broken
    found = reasons(verdict)
    assert found.keys() == {"tflite", "tflite-int8"}
    assert found["tflite"].startswith("differs from the Keras model by 1, limit 0.0001 (the same ")
    assert found["tflite-int8"].startswith("agrees with the Keras model on ")
    assert ", limit 95% (int8 has 256 levels: " in found["tflite-int8"]
    for reason in found.values():
        assert "; first departs at layer logits (FULLY_CONNECTED): " in reason


def test_a_file_with_another_number_of_classes_or_pixels_is_refused(own):
    x = keras.Input(corners.SHAPE)
    flat = layers.Flatten()(x)
    four = keras.Model(x, layers.Dense(4, activation="softmax")(flat))
    tflite.write(four, own.folder / FLOAT)
    x = keras.Input((4, 4, 1))
    small = keras.Model(x, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))
    formats.module("onnx").write(small, own.folder / "onnx/corners_float32.onnx")
    found = reasons(verify(change(own)))
    assert found["tflite"] == "outputs of shape (16, 4), the Keras model's are (16, 3)"
    assert found["onnx"].startswith("The input does not fit the file")


def test_a_folder_that_is_no_savedmodel_is_refused(whole):
    (whole.folder / "serving/corners/1/saved_model.pb").write_bytes(b"none")
    found = reasons(verify(change(whole)))
    assert found.keys() == {"savedmodel"}
    assert "TensorFlow cannot run this SavedModel" in found["savedmodel"]


@pytest.mark.parametrize("content", [b"", b"....TFL3 and then nothing", b"\0" * 5000])
def test_a_file_that_is_none_is_refused_whatever_the_runtime_raises(own, content):
    for name in ("tflite", "onnx"):
        (own.folder / formats.get(name).path("corners")).write_bytes(content)
    found = reasons(verify(change(own)))
    assert found.keys() == {"tflite", "onnx"}
    assert all(reason and "\n" not in reason for reason in found.values())


def test_a_changed_byte_is_named_and_the_file_not_run(whole):
    changed = {"tflite": FLOAT, "savedmodel": "serving/corners/1/variables/variables.index"}
    for place in changed.values():
        path = whole.folder / place
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    verdict = verify(whole)
    why = "changed after the export (its sha256 differs from manifest.json)"
    assert verdict.broken == dict.fromkeys(changed.values(), why)
    assert reasons(verdict) == {name: f"{place}: {why}" for name, place in changed.items()}
    assert {row.pictures for row in verdict.rows if row.format in changed} == {0}
    assert not verdict.ok


@pytest.mark.parametrize("place", [FLOAT, "labels.txt", "report.html"])
def test_a_missing_file_is_named(own, place):
    (own.folder / place).unlink()
    verdict = verify(own)
    assert verdict.broken == {place: "missing since the export"}
    assert not verdict.ok
    assert [row.format for row in verdict.rows if not row.ok] == (
        ["tflite"] if place == FLOAT else []
    )


@pytest.mark.parametrize("place", ["keras/model.keras", "golden.json", "golden/03.png"])
@pytest.mark.parametrize("gone", [True, False])
def test_nothing_is_judged_by_what_was_changed(own, place, gone):
    path = own.folder / place
    path.unlink() if gone else path.write_bytes(b"hostile")
    verdict = verify(own)
    assert list(verdict.broken) == [place]
    assert verdict.rows == []
    assert (verdict.ok, verdict.source) == (False, "nothing")


def test_a_changed_split_does_not_judge(own, npz):
    (own.folder / Bundle.DATA).unlink()
    verdict = verify(own, npz)
    assert list(verdict.broken) == [Bundle.DATA]
    assert verdict.rows == []
    assert len(verify(own).rows) == len(own.artifacts)  # the golden pictures do not need it


def test_data_of_other_classes_are_refused(own, tmp_path):
    other = corners.save(tmp_path / "other.npz", labels=("x", "y", "z"))
    with pytest.raises(UsageError, match="other classes than the model was trained on"):
        verify(own, other)
    with pytest.raises(DataError, match="Cannot open the data"):
        verify(own, tmp_path / "missing.npz")


def test_folders_that_are_no_bundle(own, tmp_path):
    with pytest.raises(UsageError, match=r"Not a bundle: .*Expected manifest.json in it"):
        verify(tmp_path)
    manifest = own.folder / Bundle.MANIFEST
    whole = json.loads(manifest.read_text("utf-8"))
    for content in ("", "{", "[]", "{}", json.dumps(whole | {"gates": {"max_drop": 1, "x": 2}})):
        manifest.write_text(content)
        with pytest.raises(UsageError, match="manifest of this bundle is damaged"):
            verify(own.folder)


def found(**values):
    base = {"pictures": 1000, "agreement": 1.0, "max_abs": 0.0, "size_bytes": 100}
    return Judged("tflite", "a", **{**base, **values})


def drop(model_accuracy, accuracy, error):
    return {"model_accuracy": model_accuracy, "accuracy": accuracy, "drop_error": error}


INTEGER = Limit(None, 0.95, 10.0, "")
HALF = Limit(0.02, 0.99, 40.0, "")


@pytest.mark.parametrize(
    ("judged", "limit", "gates", "reason"),
    [
        ({}, INTEGER, Gates(), ""),
        ({"agreement": 0.95}, INTEGER, Gates(), ""),
        ({"agreement": 0.949}, INTEGER, Gates(), "agrees with the Keras model on 94.9%, limit 95%"),
        ({"max_abs": 0.01}, HALF, Gates(), ""),
        ({"max_abs": 0.03}, HALF, Gates(), "by 0.03, limit 0.02"),
        ({"max_abs": np.nan}, INTEGER, Gates(), "gives NaN or infinity"),
        ({"max_abs": np.inf}, INTEGER, Gates(), "gives NaN or infinity"),
        # One picture of ten is 10 %, and still only one.
        ({"pictures": 10, "agreement": 0.9}, INTEGER, Gates(), ""),
        ({"pictures": 10, "agreement": 0.8}, INTEGER, Gates(), "agrees"),
        # The drop counts less its standard error, here that of one, then of nothing, then of two.
        (drop(0.95, 0.949, 0.001), INTEGER, Gates(0.0), ""),
        (drop(0.95, 0.949, None), INTEGER, Gates(0.0), "max_drop is 0"),
        (drop(0.95, 0.948, 0.00141), INTEGER, Gates(0.0), "loses 0.0020 of accuracy"),
        (drop(0.95, 0.93, 0.0), INTEGER, Gates(0.02), ""),
        (drop(0.95, 0.93, 0.0), INTEGER, Gates(0.01), "max_drop is 0.01"),
        (drop(0.95, 0.99, 0.0), INTEGER, Gates(0.0), ""),
        ({}, INTEGER, Gates(max_size=100), ""),
        ({}, INTEGER, Gates(max_size=99), "has 100 bytes, export.max_size is 99"),
        # Of a dry run.
        ({"agreement": 0.3}, INTEGER, Gates(dry_run=True), ""),
        ({"max_abs": 0.03}, HALF, Gates(dry_run=True), "by 0.03, limit 0.02"),
        ({}, INTEGER, Gates(max_size=99, dry_run=True), "has 100 bytes"),
    ],
)
def test_limits_and_gates(judged, limit, gates, reason):
    row = found(**judged)
    got = judging._departure(row, limit, gates) or judging._too_large(row, gates)
    assert (got == "") == (reason == "")
    assert reason in got


def test_one_picture_of_few_is_no_loss_and_half_of_them_is():
    """Of 20 pictures the model has all right; the standard error of k wrong ones is sqrt(k)/20."""
    y = np.zeros(20, int)
    want = np.tile([0.9, 0.1], (20, 1))
    for wrong, refused in ((0, False), (1, False), (2, True), (10, True)):
        got = want.copy()
        got[:wrong] = [0.1, 0.9]
        error = judging._paired_error(got, want, y)
        assert error == pytest.approx(np.sqrt(wrong) / 20)
        judged = found(pictures=20, **drop(1.0, 1 - wrong / 20, error))
        assert bool(judging._departure(judged, INTEGER, Gates())) == refused


def test_the_gates_of_the_bundle_hold_again(own):
    size = (own.folder / FLOAT).stat().st_size
    verdict = verify(change(own, gates={"max_drop": 0.01, "max_size": size - 1}))
    assert reasons(verdict)["tflite"] == f"has {size} bytes, export.max_size is {size - 1}"
    assert "tflite-int8" not in reasons(verdict)


def test_outputs_that_are_not_numbers_are_refused(tmp_path):
    model = corners.network(end="deployable")
    x, _ = corners.pictures(6)
    want = predict_keras(model, x)
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel, bias * np.nan])
    row = formats.get("tflite")
    row.load().write(model, tmp_path / row.path("m"))
    judged = judge(row, tmp_path, "m", Pictures(x, None, want), Gates())
    assert (judged.ok, judged.reason) == (False, "gives NaN or infinity")


def test_without_labels_there_is_no_accuracy(bundle):
    x, _ = corners.pictures(6)
    pictures = Pictures(x, None, predict_keras(bundle.model(), x))
    judged = judge(formats.get("onnx"), bundle.folder, bundle.name, pictures, Gates())
    assert judged.ok
    assert (judged.accuracy, judged.model_accuracy, judged.drop) == (None, None, None)


def test_unknown_labels_fit_any_data(npz):
    require_classes(None, corners.dataset(npz), npz)


def test_versions_that_differ_are_notes_and_no_failure(own):
    verdict = verify(change(own, versions=own.manifest["versions"] | {"keras": "3.0.0"}))
    assert verdict.ok
    assert verdict.notes == (f"keras was 3.0.0 at the export, and is {keras.__version__} here",)


def test_nothing_is_judged_by_a_manifest_that_was_edited_or_is_of_another_key(own):
    key = b"k" * 32
    seal.sign(own.folder, key)
    assert verify(own, key=key).ok
    assert list(verify(own, key=b"o" * 32).broken) == [seal.SIGNATURE]
    assert verify(own, key=b"o" * 32).rows == []
    files.write_json(own.folder / Bundle.MANIFEST, own.manifest | {"gates": {"max_drop": 1.0}})
    verdict = verify(own)
    assert list(verdict.broken) == [seal.MANIFEST]
    assert (verdict.ok, verdict.rows) == (False, [])


def test_the_readme_has_the_limits():
    told = README.read_text("utf-8").split("## Limits")[1].split("## ")[0]
    rows = [line.strip("| ").split(" | ") for line in told.splitlines() if line.startswith("| `")]
    assert rows == [
        [
            f"`{name}`",
            "any" if limit.max_abs is None else f"{limit.max_abs:g}",
            f"{limit.agreement:.0%}" if limit.agreement else "any",
            limit.reason,
            f"{limit.layer_db:g} dB",
        ]
        for name, limit in LIMITS.items()
    ]


def test_the_class_that_loses_most():
    """Of class 1, one picture of two is lost; class 0 loses one of four and wins one back."""
    y = np.array([0, 0, 0, 0, 1, 1])
    right, wrong = np.eye(3)[y], np.eye(3)[(y + 1) % 3]
    got, want = right.copy(), right.copy()
    got[[0, 4]], want[1] = wrong[[0, 4]], wrong[1]
    assert judging._worst_class(got, want, y) == (1, 0.5)
    assert judging._worst_class(right, want, y) is None
    assert judging._worst_class(want, right, y) == (0, 0.25)
