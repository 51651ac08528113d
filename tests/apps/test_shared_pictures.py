"""The main job on real pictures, where `CNNKIT_DATA` names the folder that holds them."""

import json
import os
import re
from pathlib import Path

from apps.cli import main

DATA = os.environ.get("CNNKIT_DATA")
# The recipe of the benchmark against the clock.
FAST = {
    "model.name": "lenet5_caffe",
    "model.width": 0.4,
    "train.batch_size": 128,
    "train.lr": 8e-3,
    "train.warmup_epochs": 0,
    "train.epochs": 2,
    "compress.finetune_epochs": 1,
    "compress.finetune_lr": 2e-3,
}


def run(data, tmp_path, *arguments):
    out = tmp_path / "bundle"
    places = ["--out", str(out), "--run", str(tmp_path / "run")]
    code = main(["-q", "run", str(Path(DATA, data)), *places, *arguments])
    return code, json.loads((out / "manifest.json").read_text())


if DATA:  # not a skip: without the folder there is nothing to test

    def test_mnist(tmp_path):
        sets = [word for key, value in FAST.items() for word in ("--set", f"{key}={value}")]
        code, manifest = run("mnist", tmp_path, "--preset", "phone", *sets)
        assert code == 0
        accuracy = {row["format"]: row["accuracy"] for row in manifest["verdicts"]}
        assert accuracy["tflite-int8"] >= 0.985

    def test_stamps(tmp_path):
        short = ("--set", "train.epochs=1", "--set", "compress.finetune_epochs=1")
        code, manifest = run("stamps", tmp_path, *short)
        # So few epochs may leave a network that no int8 file can follow: then it must say so.
        assert code == (0 if all(row["ok"] for row in manifest["verdicts"]) else 3)
        report = (tmp_path / "bundle" / "report.html").read_text()
        assert "Always answering the largest class would be right on 33.6%" in report
        assert re.search(r"Macro F1, .* is \d+\.\d% \(\d+\.\d% to \d+\.\d%\)", report)
        assert "uneven classes" in report
        assert "fewer than 20 test pictures" in report
