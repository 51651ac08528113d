"""Whatever is wrong: one clear line, the right exit code, and nothing left or lost."""

import re
import shlex

import numpy as np
import pytest

from apps.cli import app
from cnnkit import files
from cnnkit.models.saving import load_model

CASES = [
    # 4: the data
    ("run nowhere", 4, "Cannot open the data: nowhere.*No such file"),
    ("train empty", 4, "The folder is empty: empty"),
    ("run single", 4, "Only one class in: .*single: cat"),
    ("train lonely", 4, "Too few usable pictures in class: dog"),
    ("check unreadable", 4, "No usable picture in: .*unreadable.*cat/noise.png"),
    ("check spoiled --strict", 4, "1 problem, the first is: dog/cut.png.*truncated"),
    ("run spoiled --set data.on_bad_image=fail", 4, "1 bad picture.*dog/cut.png.*truncated"),
    ("check picture.png", 4, "Not a data source: picture.png"),
    ("check spoiled --group-by folder", 4, "groups of pictures: none is left for .*2 in all"),
    ("check nothing-*.tfrecord", 4, r"No TFRecord file matches: .*nothing-\*.tfrecord.*in quotes"),
    ("bench --input nowhere", 4, "Cannot open the data: nowhere"),
    ("compress user.keras --pass prune-filters --data empty", 4, "The folder is empty"),
    ("predict user.keras nowhere.png", 4, "No such picture: nowhere.png"),
    ("predict user.keras empty", 4, "No picture in: empty"),
    # 2: verbs, arguments, recipes
    ("frobnicate", 2, r"Unknown verb 'frobnicate'\. Closest: \w+, \w+, \w+\.$"),
    ("trian digits", 2, "Unknown verb 'trian'. Closest: train, "),
    ("train digits --frobnicate", 2, "No such option"),
    ("run", 2, "No data given"),
    ("train digits --seed many", 2, "--seed.*integer"),
    ("train digits --set train.epoch=3", 2, r"'train\.epoch'\. Closest: train\.epochs, \S+, \S+$"),
    ("compress user.keras --pass prune-filters --set a.b=1", 2, "Unknown recipe key 'a.b'"),
    (
        "compress user.keras --pass prune-filters --set data.pixel_range=0-9",
        2,
        "pixel_range.*'0-255', '0-1' or '-1-1'.*0-9",
    ),
    ("export user.keras --set a.b=1", 2, "Unknown recipe key 'a.b'"),
    ("train digits --set train.epochs=many", 2, r"train\.epochs \(from --set\).*'many'"),
    ("train digits --set train.epochs", 2, "Not an assignment"),
    ("train digits -m lenet6", 2, "'lenet6'. Closest: lenet5"),
    ("run digits --preset phne", 2, "Unknown preset 'phne'. Closest: phone"),
    ("train digits -c nowhere.toml", 2, "Cannot read the recipe: nowhere.toml"),
    ("train digits -c text.toml", 2, "The recipe is not TOML: text.toml"),
    ("check digits --split 0.5/0.5", 2, "Wrong split"),
    ("check digits --split a/b/c", 2, "Wrong split"),
    ("check digits --split 0.9/0.9/0.9", 2, "Wrong split"),
    ("check spoiled --group-by (", 2, r"group_by is no regular expression: \(.*unterminated"),
    (
        "check spoiled --group-by patient",
        2,
        "group_by matches no picture: patient.*cat/RGB ü 0.png",
    ),
    ("train spoiled --set data.group_by=patient", 2, "group_by matches no picture: patient"),
    ("check digits --group-by a", 2, "group_by needs pictures with paths: digits"),
    ("bench", 2, "No data given"),
    ("show model lenet5 --input 28by28", 2, "Wrong input size.*28by28"),
    ("show model lenet6", 2, "Unknown model 'lenet6'. Closest: lenet5"),
    ("list model", 2, "Closest: models"),
    ("predict user.keras picture.png --format xml", 2, "Unknown format 'xml'"),
    ("eval user.keras digits --split dev", 2, "Unknown split 'dev'"),
    # 2: passes and formats
    ("compress user.keras", 2, "No pass given"),
    ("compress user.keras --pass prune", 2, "Unknown pass 'prune'. Closest: prune-"),
    ("compress user.keras --pass prune-filters:ration=1", 2, "'ration'. Closest: ratio, "),
    ("compress user.keras --pass prune-filters:ratio=2", 2, "`ratio`.*Received 2"),
    ("run digits --set compress.passes=['prune']", 2, "Unknown pass 'prune'"),
    ("run digits --set export.formats=['tflight']", 2, "Unknown format 'tflight'"),
    ("export user.keras --format tflight", 2, "Unknown format 'tflight'. Closest: tflite"),
    ("export user.keras --format tflite-int8", 2, "without calibration pictures: tflite-int8"),
    # 2: models
    ("predict nowhere.tflite picture.png", 2, "nowhere.tflite"),
    ("eval nowhere digits", 2, "nowhere"),
    ("verify nowhere", 2, "nowhere"),
    ("verify empty", 2, "Not a bundle: empty"),
    ("export empty", 2, "Not a run folder: empty"),
    ("export user.keras --sign nowhere", 2, "Cannot read the key: nowhere"),
    ("verify old_bundle --key picture.png", 2, "manifest of this bundle is damaged"),
    ("report empty", 2, "Not a run folder: empty"),
    ("report user.keras", 2, "user.keras.*is a file"),
    ("report old_bundle", 2, "Name a place outside of it"),
    ("doctor nowhere.log", 2, "Cannot read the log: nowhere.log"),
    ("eval empty digits", 2, "empty"),
    ("eval user.keras", 2, "No data to judge it on.*cnnkit eval user.keras DATA"),
    ("eval text.keras digits", 2, "text.keras.*no zip archive"),
    ("export text.keras", 2, "text.keras.*no zip archive"),
    ("compress text.keras --pass prune-filters", 2, "text.keras.*no zip archive"),
    ("predict text.tflite picture.png", 2, "text.tflite"),
    ("predict text.onnx picture.png", 2, "text.onnx"),
    ("eval picture.png digits", 2, "Not a model file: picture.png"),
    ("compress lambda.keras --pass prune-filters", 2, "Python code.*Lambda.*not run.*lambda.keras"),
    ("export lambda.keras --data digits", 2, "Python code.*Lambda.*not run.*lambda.keras"),
    ("predict lambda.keras picture.png", 2, "Python code.*Lambda.*not run.*lambda.keras"),
    ("compress user.keras --pass prune-filters --data spoiled", 2, "2 classes|other classes|10"),
    ("compress two_inputs.keras --pass prune-filters", 2, "one input and one output.* 2 inputs"),
    ("compress two_outputs.keras --pass qat --data digits", 2, "one input and one.*2 outputs"),
    ("compress sigmoid.keras --pass low-rank --data digits", 2, "independent.*Leave the sigmoid"),
    ("predict sigmoid.keras picture.png", 2, "independent.*Leave the sigmoid out"),
    ("compress four_channels.keras --pass qat --data digits", 2, r"Received \(8, 8, 4\)"),
    ("compress any_size.keras --pass prune-weights", 2, r"Received \(None, None, 1\)"),
    ("compress maps.keras --pass low-rank", 2, r"one score for each class.*Received \(6, 6, 10\)"),
    ("compress nine_classes.keras --pass qat --data digits", 2, "Expected 9 classes.*10 classes"),
    ("compress user.keras --pass qat", 2, "needs pictures.*Give data"),
    # 2: places
    ("train digits --out old_run", 2, "something already: old_run.*--overwrite"),
    ("run digits --run old_run", 2, "something already: old_run.*--overwrite"),
    ("run digits --out old_bundle", 2, "something already: old_bundle.*--overwrite"),
    ("export user.keras --out old_bundle", 2, "something already: old_bundle.*--overwrite"),
    ("train digits --out theirs --overwrite", 2, "something already: theirs"),
    ("train digits --out old_bundle --overwrite", 2, "something already: old_bundle"),
    ("run digits --out theirs --overwrite", 2, "something already: theirs"),
    ("export user.keras --out theirs --overwrite", 2, "something already: theirs"),
    ("compress user.keras --pass prune-filters --out theirs --overwrite", 2, "already: theirs"),
    ("train digits --out picture.png --overwrite", 2, "something already: picture.png"),
    # 1: what cannot be written
    ("train digits --out picture.png/run", 1, "Cannot write: picture.png/run"),
    ("compress user.keras --pass prune-filters --out picture.png/r", 1, "Cannot write"),
    ("export user.keras --format tflite --out picture.png/b", 1, "Cannot write: picture.png/b"),
    ("check digits -o picture.png/manifest.json", 1, "Cannot write: picture.png/manifest.json"),
]


def content(folder):
    return {p: files.sha256(p) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("argv", "code", "pattern"), CASES, ids=[case[0] for case in CASES])
def test_one_line_and_nothing_changed(argv, code, pattern, cnnkit, here):
    before = content(here)
    done = cnnkit(*shlex.split(argv, posix="'" not in argv))
    assert len(done.errors) == 1, done.err
    assert re.search(pattern, done.errors[0])
    assert done.errors[0].startswith("error: ")
    assert done.code == code
    assert content(here) == before


def test_an_emoji_is_not_made_of_a_path(cnnkit):
    assert "./:cat:" in cnnkit("check", "./:cat:").err


def test_an_internal_error_is_one_line_too(cnnkit):
    @app.command("fail")
    def fail():
        raise ZeroDivisionError("because\nof two lines")

    try:
        done = cnnkit("fail")
        assert (done.code, done.out) == (1, "")
        [line] = done.errors
        assert line == "error: Internal error: ZeroDivisionError: because. See it with `cnnkit -v`."
        with pytest.raises(ZeroDivisionError):
            cnnkit("-v", "fail")
    finally:
        app.registered_commands.pop()


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")
def test_training_that_diverges_keeps_the_last_good_weights(cnnkit, tmp_path):
    done = cnnkit("train", "digits", "--set", "train.lr=1e30", "--set", "model.width=0.25")
    assert done.code == 5
    assert re.search(
        "diverged, after going back 3 times, in epoch 1.*nan.*lower learning rate", *done.errors
    )
    run = tmp_path / "runs" / "digits"
    assert not (run / "model.keras").exists()
    assert str(run.relative_to(tmp_path) / "checkpoints" / "best.keras") in done.err
    weights = load_model(run / "checkpoints" / "best.keras").get_weights()
    assert all(np.isfinite(w).all() for w in weights)
    used = cnnkit("eval", run)
    assert used.code == 2
    assert "Training has not finished" in used.err
