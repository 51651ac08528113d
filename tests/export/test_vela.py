"""Vela, the real one: what it says of a small file."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cnnkit import models
from cnnkit.errors import UsageError
from cnnkit.training.network import deployable
from cnnkit.training.recipe import changed
from export import bundle as bundles
from export import formats
from export import vela
from export.formats import micro
from export.formats import tflite
from export.judging import judge

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    model = deployable(models.build("lenet5_caffe", (28, 28, 1), 10), [33.0], [78.0])
    x = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1)).astype(np.uint8)
    return micro.write(model, tmp_path_factory.mktemp("vela") / "lenet.tflite", calibration=x)


@pytest.mark.parametrize("target", vela.ACCELERATORS)
def test_a_network_runs_on_the_npu_as_a_whole(written, target):
    found = vela.compile_file(written, target)
    assert (found.share, found.cpu_ops) == (1.0, ())
    assert found.accelerator.startswith(target)
    weights = 20 * 25 + 50 * 25 * 20 + 800 * 500 + 500 * 10
    assert found.weight_bytes == pytest.approx(weights, rel=1e-3)  # rounded up to blocks
    # Random weights cannot be coded much shorter; activations are 24 x 24 x 20 at most.
    assert 0.7 * found.weight_bytes < found.encoded_weight_bytes < 1.2 * found.weight_bytes
    assert 24 * 24 * 20 / 2 < found.sram_bytes < 1e6
    assert found.inference_ms == pytest.approx(found.cycles / found.clock_mhz / 1000, rel=1e-3)
    stored = found.flash_bytes + found.dram_bytes
    assert 0.7 * found.weight_bytes < stored < 1.5 * found.weight_bytes
    assert json.loads(json.dumps(found.to_dict()))["version"]


def test_zeros_make_the_coded_weights_shorter(written, tmp_path):
    from export.formats import flatbuffer

    content = flatbuffer.parse(written.read_bytes())
    largest = max(content.buffers, key=lambda b: 0 if b.data is None else len(b.data))
    largest.data = np.where(np.arange(len(largest.data)) % 4, 0, largest.data).astype(np.uint8)
    sparse = tmp_path / "sparse.tflite"
    sparse.write_bytes(flatbuffer.pack(content))
    before, after = (vela.compile_file(path, "ethos-u55") for path in (written, sparse))
    assert after.encoded_weight_bytes < 0.6 * before.encoded_weight_bytes


def test_ops_in_float_stay_on_the_cpu(tmp_path):
    model = deployable(models.build("lenet300", (8, 8, 1), 4), [33.0], [78.0])
    path = tflite.write(model, tmp_path / "float.tflite")
    found = vela.compile_file(path, "ethos-u55")
    assert found.share == 0.0
    assert "FULLY_CONNECTED" in found.cpu_ops


def test_a_bundle_for_an_npu(subject, tmp_path):
    target = "ethos-u55:flash=64KB,ram=64KB"
    recipe = changed(subject.recipe, {"export.target": target}).recipe
    made = bundles.write(replace(subject, recipe=recipe), ["micro"], out=tmp_path / "bundle")
    (verdict,), told = made.manifest["verdicts"], made.manifest["target"]
    assert (verdict["ok"], verdict["reason"]) == (True, "")
    assert told["vela"] == json.loads((made.folder / "micro/vela.json").read_text())
    assert told["vela"]["share"] == 1.0
    assert told["ram_bytes"] == pytest.approx(verdict["arena_bytes"], abs=500)
    assert told["size_bytes"] == pytest.approx(verdict["size_bytes"], rel=0.05)
    assert (made.gates.max_size, made.gates.max_arena) == (64_000, 64_000)
    tight = replace(made.gates, max_arena=verdict["arena_bytes"] - 1)
    pictures = made.golden_pictures()
    again = judge(formats.get("micro"), made.folder, made.name, pictures, tight)
    assert again.reason == (
        f"needs {verdict['arena_bytes']} bytes of RAM, export.target has {tight.max_arena}"
    )


def test_what_is_no_file_is_one_line(tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"\0" * 64)
    with pytest.raises(UsageError, match="Vela cannot compile this file for ethos-u55") as told:
        vela.compile_file(path, "ethos-u55")
    assert "\n" not in str(told.value)


def test_time_is_limited(written, monkeypatch):
    monkeypatch.setattr(vela, "TIMEOUT_S", 0.05)
    with pytest.raises(UsageError, match="did not finish in time"):
        vela.compile_file(written, "ethos-u55")


def test_without_vela_one_line_says_what_to_install(written, monkeypatch):
    monkeypatch.setattr(vela.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'cnnkit\[micro\]'"):
        vela.compile_file(written, "ethos-u55")
