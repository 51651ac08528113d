"""The second opinion on ONNX files, of one that ships with the project."""

import re
from pathlib import Path

import pytest

from export.bundle import Bundle
from export.formats import onnx

pytestmark = pytest.mark.export
NAME = "lenet_6kb"
FOLDER = Path(__file__).parents[2] / "saved_models" / NAME
FILE = FOLDER / "onnx" / f"{NAME}_int8.onnx"


@pytest.fixture(scope="module")
def pictures():
    return Bundle.open(FOLDER).golden_pictures()


def test_openvino_gives_the_class_of_onnx_runtime(pictures, monkeypatch):
    # What cnnkit sets for TensorFlow, with which OpenVINO would give no row of this network.
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX")
    (note,) = onnx.confirm(FILE, pictures.x, onnx.run(FILE, pictures.x))["opinions"]
    found = re.fullmatch(
        r"run in OpenVINO \d{4}\.\d+\.\d+ too: the class of ONNX Runtime on 16 of 16 pictures, "
        r"the largest difference of a score is (\S+)",
        note,
    )
    assert float(found[1]) < 0.02


def test_a_file_that_openvino_cannot_run_is_a_note(pictures, tmp_path):
    path = tmp_path / "none.onnx"
    path.write_bytes(b"this is no network")
    (note,) = onnx.confirm(path, pictures.x, pictures.want)["opinions"]
    assert note.startswith("OpenVINO cannot run it: ")
